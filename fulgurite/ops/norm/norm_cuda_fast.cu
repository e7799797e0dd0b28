// A block a token, or for few tokens a cluster of four; eight neighbours a thread, everything under way at
// once.

#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/settled.h"
#include "fulgurite/ops/norm/norm_rules.h"

namespace fulgurite::norm {
namespace {

constexpr int kFewTokens = 9;  // of a cluster each
constexpr unsigned kOfCluster = 4;

template <class T>  // uint16_t: bf16, or float
struct Params {
  const T *x, *added;  // or none
  const float *replaced, *weight;
  T *sum, *out;
  int64_t x_stride, added_stride, replaced_stride, sum_stride, out_stride;
  int width;
  double inverse_width;
  float epsilon;
  bool reads_rounded, two_step_rsqrt;
};

template <class T>
__device__ void read_residual(const Params<T>& p, int64_t t, int first, cuda::Eight& s) {
  if (p.replaced != nullptr) return cuda::read(s, p.replaced + t * p.replaced_stride + first);
  cuda::read(s, p.x + t * p.x_stride + first);
  if (p.added == nullptr) return;
  cuda::Eight added;
  cuda::read(added, p.added + t * p.added_stride + first);
#pragma unroll
  for (int i = 0; i < 8; ++i) s[i] = __fadd_rn(s[i], added[i]);
}

// One element, as the norm reads it.
template <class T>
__device__ float read_one(const Params<T>& p, int64_t t, int i) {
  const auto value = [](T stored) {
    if constexpr (sizeof(T) == 2)
      return cuda::bf16_to_float(stored);
    else
      return stored;
  };
  float s = 0.0f;
  if (p.replaced != nullptr) {
    s = p.replaced[t * p.replaced_stride + i];
  } else {
    s = value(p.x[t * p.x_stride + i]);
    if (p.added != nullptr) s = __fadd_rn(s, value(p.added[t * p.added_stride + i]));
  }
  return p.reads_rounded && sizeof(T) == 2 ? cuda::bf16_rounded(s) : s;
}

// The contract's chain, by every warp alike. Nothing of the row has been written.
template <class T>
__device__ double ordered_squares(const Params<T>& p, int64_t t) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double sum = 0.0;
  for (int first = 0; first < p.width; first += 32)
    sum = cuda::add_lanes_in_order(sum,
                                   first + lane < p.width ? cuda::square(read_one(p, t, first + lane)) : 0.0);
  return sum;
}

__device__ double tree_of_squares(const cuda::Eight& s) {
  double sums[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const double even = s[2 * i], odd = s[2 * i + 1];
    sums[i] = __fma_rn(even, even, __dmul_rn(odd, odd));
  }
  return __dadd_rn(__dadd_rn(sums[0], sums[1]), __dadd_rn(sums[2], sums[3]));
}

// The sum of all warps' values of the cluster, in the order of their threads.
__device__ double sum_of_cluster(double value, unsigned blocks) {
  __shared__ double parts[32];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32, warps = blockDim.x / 32;
  const double sum = cuda::sum_of_lanes<32>(value);
  if (blocks == 1) {
    if (lane == 0) parts[warp] = sum;
    __syncthreads();
  } else {
    if (lane < blocks)
      cuda::store_in(
          cuda::address_in(cuda::shared_address(&parts[cuda::cluster_rank() * warps + warp]), lane), sum);
    cuda::cluster_arrive();
    cuda::cluster_wait();
  }
  return cuda::sum_of_lanes<32>(lane < blocks * warps ? parts[lane] : 0.0);
}

template <class T>
__global__ void __launch_bounds__(1024) norm_rows(const __grid_constant__ Params<T> p, unsigned blocks) {
  cuda::release_successor();
  const int64_t t = blockIdx.x / blocks;
  const int first = static_cast<int>(blockIdx.x % blocks * blockDim.x + threadIdx.x) * 8;
  const bool has_any = first < p.width;
  cuda::Eight weight{}, s{};
  if (has_any) cuda::read(weight, p.weight + first);
  // Clusters: the others' shared memory is there before it is written to.
  if (blocks > 1) cuda::cluster_arrive_relaxed();
  cuda::wait_for_predecessor();
  if (has_any) read_residual(p, t, first, s);
  cuda::Eight normed;
#pragma unroll
  for (int i = 0; i < 8; ++i) normed[i] = s[i];
  if (p.reads_rounded) cuda::round<T>(normed);
  if (blocks > 1) cuda::cluster_wait();
  cuda::Mean mean =
      cuda::settled_mean(sum_of_cluster(tree_of_squares(normed), blocks), p.width, p.inverse_width);
  if (!mean.certain) {
    mean.value = cuda::exact_mean(ordered_squares(p, t), p.width);
    __syncthreads();  // before anything is written over it
    if (blocks > 1) {
      cuda::cluster_arrive();
      cuda::cluster_wait();
    }
  }
  const float r = cuda::reciprocal_root(__fadd_rn(mean.value, p.epsilon), p.two_step_rsqrt);
  if (!has_any) return;
  if (p.sum != nullptr) cuda::write(s, p.sum + t * p.sum_stride + first);
#pragma unroll
  for (int i = 0; i < 8; ++i) normed[i] = __fmul_rn(weight[i], __fmul_rn(normed[i], r));
  cuda::write(normed, p.out + t * p.out_stride + first);
}

template <class T>
void launch(const Problem& problem, const Args& args, const Lane& lane) {
  const auto tokens = static_cast<unsigned>(args.out.extent[0]);
  const auto at = [](const auto& view) { return reinterpret_cast<const T*>(view.data); };
  const Params<T> params{at(args.x),
                         at(args.added),
                         args.replaced.data,
                         args.weight.data,
                         reinterpret_cast<T*>(args.sum.data),
                         reinterpret_cast<T*>(args.out.data),
                         args.x.stride[0],
                         args.added.stride[0],
                         args.replaced.stride[0],
                         args.sum.stride[0],
                         args.out.stride[0],
                         static_cast<int>(problem.width),
                         1.0 / static_cast<double>(problem.width),
                         problem.eps,
                         problem.setting.numerics.norm_input == NormInput::kRounded,
                         problem.setting.numerics.rsqrt == Rsqrt::kTwoStep};
  const auto eights = static_cast<unsigned>(problem.width / 8);
  const unsigned blocks = tokens < kFewTokens && eights >= 32 * kOfCluster ? kOfCluster : 1;
  const unsigned threads = ((eights + blocks - 1) / blocks + 31) / 32 * 32;
  cuda::launch(lane, {{tokens * blocks}, threads, 0, blocks}, norm_rows<T>, params, blocks);
}

template <class View>
bool is_aligned(const View& view, int64_t bytes) {
  return cuda::is_aligned(view.data, bytes, view.stride[0]);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (args.out.extent[0] == 0) return;
  const bool wide = args.out.dtype == DType::kF32;
  const int64_t bytes = wide ? 4 : 2;
  cuda::require_aligned(is_aligned(args.x, bytes) && is_aligned(args.added, bytes) &&
                            is_aligned(args.replaced, 4) && cuda::is_aligned(args.weight.data, 4) &&
                            is_aligned(args.sum, bytes) && is_aligned(args.out, bytes),
                        "norm");
  wide ? launch<float>(problem, args, lane) : launch<uint16_t>(problem, args, lane);
}

}  // namespace fulgurite::norm
