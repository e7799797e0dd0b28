// A block takes 2,048 columns of a token: it adds the slices' sums that it needs, and collapses. The first blocks
// make what the next site mixes with, which takes longer: Sinkhorn is a chain of divisions.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/quotient.h"
#include "fulgurite/cuda/settled.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cuda_kernels.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kColumns = 8 * kThreads;
constexpr int kSquares = kSums - 1, kFirstOfMix = 2 * kStreams;
constexpr int kFewTokens = 32;  // whose coefficients have a block each
constexpr unsigned kAll = ~0u;

template <class T>  // uint16_t: bf16, or float
struct Params {
  const T* x;             // X', or none where it is replaced
  const float* replaced;  // or none
  const float *base, *scale;
  const double* sums;
  T* collapsed;
  float *post_out, *mix_out;  // of a layer
  int64_t token_stride, stream_stride, replaced_stride, collapsed_stride, post_stride, mix_stride,
      mix_row_stride;
  int tokens, hidden, slices, outputs, parts, mixing_blocks, iterations;
  float eps, norm_eps;
  double inverse_count;
  bool two_step_rsqrt, warp_a_token;
};

// The sum of all slices of output `lane`: slice s falls to class s % 32, ascending; the classes are a tree.
constexpr int kClasses = 32;

template <int kFirst = 0, int kApart = 1>
__device__ double tree_of(const double (&classes)[kClasses]) {  // of classes kFirst, kFirst + kApart, ...
  if constexpr (kApart == kClasses)
    return classes[kFirst];
  else
    return __dadd_rn(tree_of<kFirst, 2 * kApart>(classes), tree_of<kFirst + kApart, 2 * kApart>(classes));
}

// By all warps of the block, which share the classes. In the first warp.
__device__ double sum_by_block(const double* sums, int slices, bool wanted) {
  __shared__ double of_classes[kClasses][kSums];
  constexpr int kOwn = kClasses / kWarps, kUnderWay = 4;
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  double own[kOwn] = {};
  for (int first = 0; first < slices && wanted; first += kClasses * kUnderWay) {
    double values[kUnderWay][kOwn];
#pragma unroll
    for (int j = 0; j < kUnderWay; ++j) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) {
        const int s = first + j * kClasses + i * kWarps + warp;
        values[j][i] = s < slices ? __ldcg(sums + s * kSums + lane) : 0.0;
      }
    }
#pragma unroll
    for (int j = 0; j < kUnderWay; ++j) {
#pragma unroll
      for (int i = 0; i < kOwn; ++i) own[i] = __dadd_rn(own[i], values[j][i]);
    }
  }
  if (lane < kSums) {
#pragma unroll
    for (int i = 0; i < kOwn; ++i) of_classes[i * kWarps + warp][lane] = own[i];
  }
  __syncthreads();
  if (warp != 0) return 0.0;
  double classes[kClasses];
#pragma unroll
  for (int c = 0; c < kClasses; ++c) classes[c] = lane < kSums ? of_classes[c][lane] : 0.0;
  return tree_of(classes);
}

// The same by one warp.
__device__ double sum_by_warp(const double* sums, int slices) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  double classes[kClasses] = {};
  for (int first = 0; first < slices && lane < kSums; first += kClasses) {
#pragma unroll
    for (int c = 0; c < kClasses; ++c)
      if (first + c < slices) classes[c] = __dadd_rn(classes[c], __ldcg(sums + (first + c) * kSums + lane));
  }
  return tree_of(classes);
}

// --- of a warp, whose lane n has output n; the mix's element (j, k) is lane 8 + 4j + k ---

__device__ float sum_of(float a, float b, float c, float d) {
  return __fadd_rn(__fadd_rn(__fadd_rn(a, b), c), d);
}
__device__ float row_sum(float value) {
  const int first = static_cast<int>(threadIdx.x) & ~3;
  return sum_of(__shfl_sync(kAll, value, first), __shfl_sync(kAll, value, first + 1),
                __shfl_sync(kAll, value, first + 2), __shfl_sync(kAll, value, first + 3));
}
__device__ float column_sum(float value) {
  const int first = kFirstOfMix + static_cast<int>(threadIdx.x) % 4;
  return sum_of(__shfl_sync(kAll, value, first), __shfl_sync(kAll, value, first + 4),
                __shfl_sync(kAll, value, first + 8), __shfl_sync(kAll, value, first + 12));
}
__device__ float largest_of_row(float value) {
  const int first = static_cast<int>(threadIdx.x) & ~3;
  float largest = __shfl_sync(kAll, value, first);
#pragma unroll
  for (int i = 1; i < 4; ++i) {
    const float other = __shfl_sync(kAll, value, first + i);
    largest = largest < other ? other : largest;
  }
  return largest;
}

template <class T>
__device__ float z_of(const Params<T>& p, double sum, float scale, float base) {
  const int count = static_cast<int>(kStreams) * p.hidden;
  cuda::Mean squares = cuda::settled_mean(sum, count, p.inverse_count);
  if (!squares.certain) squares.value = cuda::exact_mean(sum, count);
  const float mean = __shfl_sync(kAll, squares.value, kSquares);
  const float r = cuda::reciprocal_root(__fadd_rn(mean, p.norm_eps), p.two_step_rsqrt);
  return __fadd_rn(__fmul_rn(__fmul_rn(static_cast<float>(sum), r), scale), base);
}

__device__ float sigmoid_of(double exp_of_minus_z) {
  return static_cast<float>(__drcp_rn(__dadd_rn(1.0, exp_of_minus_z)));
}

// From the softmax on. Once a round changes nothing, none will. `least` becomes the least element on the way.
template <bool kModerate>
__device__ float normalize(float c, float eps, int iterations, bool of_mix, float& least) {
  const auto divide = [&](float sum) {
    c = kModerate ? cuda::moderate_quotient(c, __fadd_rn(sum, eps)) : __fdiv_rn(c, __fadd_rn(sum, eps));
    if (of_mix) least = fminf(least, c);
  };
  divide(column_sum(c));
#pragma unroll 1
  for (int i = 1; i < iterations; ++i) {
    const float before = c;
    divide(row_sum(c));
    divide(column_sum(c));
    if (__all_sync(kAll, c == before || !of_mix)) break;
  }
  return c;
}

__device__ float sinkhorn(float exponential, float eps, int iterations, bool of_mix) {
  const float softmax = __fadd_rn(__fdiv_rn(exponential, row_sum(exponential)), eps);
  float least = softmax;
  const float c = normalize<true>(softmax, eps, iterations, of_mix, least);
  if (__all_sync(kAll, !(least < 0x1p-60f) || !of_mix)) return c;  // NaN stays NaN either way
  return normalize<false>(softmax, eps, iterations, of_mix, least);
}

template <class T>
__device__ void write_coefficients(const Params<T>& p, int64_t t, float z) {
  const int lane = static_cast<int>(threadIdx.x) % 32, element = lane - kFirstOfMix;
  const bool of_mix = element >= 0 && element < static_cast<int>(kStreams * kStreams);
  if (!of_mix && element >= 0) z = 0.0f;
  const float largest = largest_of_row(z);
  const double exponential =
      exp(lane < kFirstOfMix ? -static_cast<double>(z) : static_cast<double>(__fsub_rn(z, largest)));
  const float c = sinkhorn(static_cast<float>(exponential), p.eps, p.iterations, of_mix);
  if (of_mix) p.mix_out[t * p.mix_stride + element / 4 * p.mix_row_stride + element % 4] = c;
  if (lane >= kStreams && lane < kFirstOfMix)
    p.post_out[t * p.post_stride + lane - kStreams] = __fmul_rn(2.0f, sigmoid_of(exponential));
}

template <class T>
__device__ void read_streams(const Params<T>& p, int64_t t, int column, cuda::Eight (&x)[kStreams]) {
#pragma unroll
  for (int k = 0; k < kStreams; ++k) {
    if (p.replaced != nullptr)
      cuda::read(x[k], p.replaced + t * p.replaced_stride + k * p.hidden + column);
    else
      cuda::read(x[k], p.x + t * p.token_stride + k * p.stream_stride + column);
  }
}

// Few tokens: a block each. Many: a warp each.
template <class T>
__device__ void make_coefficients(const Params<T>& p, float scale, float base) {
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  const int64_t t = p.warp_a_token ? static_cast<int64_t>(blockIdx.x) * kWarps + warp : blockIdx.x;
  if (t >= p.tokens) return;
  const double* const sums = p.sums + t * p.slices * kSums;
  const double sum =
      p.warp_a_token ? sum_by_warp(sums, p.slices) : sum_by_block(sums, p.slices, lane < kSums);
  if (p.warp_a_token || warp == 0) write_coefficients(p, t, z_of(p, sum, scale, base));
}

template <class T>
__device__ void collapse(const Params<T>& p, float scale, float base) {
  __shared__ float pre[kStreams];
  const int lane = static_cast<int>(threadIdx.x) % 32, block = static_cast<int>(blockIdx.x) - p.mixing_blocks;
  const int64_t t = block / p.parts;
  const int column = block % p.parts * kColumns + static_cast<int>(threadIdx.x) * 8;
  cuda::Eight x[kStreams];
  if (column < p.hidden) read_streams(p, t, column, x);
  const double sum =
      sum_by_block(p.sums + t * p.slices * kSums, p.slices, lane < kStreams || lane == kSquares);
  if (threadIdx.x < 32) {
    const float z = z_of(p, sum, scale, base);
    const float value = __fadd_rn(sigmoid_of(exp(-static_cast<double>(z))), p.eps);
    if (lane < kStreams) pre[lane] = value;
  }
  __syncthreads();
  if (column >= p.hidden) return;
  cuda::Eight collapsed;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    collapsed[i] = 0.0f;
#pragma unroll
    for (int j = 0; j < kStreams; ++j) collapsed[i] = __fadd_rn(collapsed[i], __fmul_rn(pre[j], x[j][i]));
  }
  cuda::write(collapsed, p.collapsed + t * p.collapsed_stride + column);
}

template <class T>
__global__ void __launch_bounds__(kThreads) mix(const __grid_constant__ Params<T> p) {
  cuda::release_successor();
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float base = 0.0f, scale = 0.0f;
  if (lane < p.outputs) {
    base = __ldg(p.base + lane);
    scale = __ldg(p.scale + (lane < kStreams ? 0 : lane < kFirstOfMix ? 1 : 2));
  }
  cuda::wait_for_predecessor();
  if (static_cast<int>(blockIdx.x) < p.mixing_blocks)
    make_coefficients(p, scale, base);
  else
    collapse(p, scale, base);
}

template <class T>
void launch(const Problem& problem, const Args& args, const double* sums, const Lane& lane) {
  const ConstTensor<3> x = updates(args) ? ConstTensor<3>(args.streams_out) : args.streams;
  const auto tokens = static_cast<int>(args.streams.extent[0]);
  const bool many = tokens > kFewTokens;
  const int mixing = many ? (tokens + kWarps - 1) / kWarps : tokens;
  const Params<T> params{reinterpret_cast<const T*>(x.data),
                         args.replaced.data,
                         args.base.data,
                         args.scale.data,
                         sums,
                         reinterpret_cast<T*>(args.collapsed.data),
                         args.post_out.data,
                         args.mix_out.data,
                         x.stride[0],
                         x.stride[1],
                         args.replaced.stride[0],
                         args.collapsed.stride[0],
                         args.post_out.stride[0],
                         args.mix_out.stride[0],
                         args.mix_out.stride[1],
                         tokens,
                         static_cast<int>(problem.hidden),
                         static_cast<int>(slices_of(problem)),
                         static_cast<int>(outputs(problem)),
                         static_cast<int>((problem.hidden + kColumns - 1) / kColumns),
                         problem.kind == Kind::kLayer ? mixing : 0,
                         problem.sinkhorn_iterations,
                         problem.eps,
                         problem.norm_eps,
                         1.0 / static_cast<double>(kStreams * problem.hidden),
                         problem.setting.numerics.rsqrt == Rsqrt::kTwoStep,
                         many};
  const auto blocks = static_cast<unsigned>(params.mixing_blocks + params.parts * tokens);
  cuda::launch(lane, {{blocks}, kThreads}, mix<T>, params);
}

}  // namespace

void launch_mix(const Problem& problem, const Args& args, const double* sums, const Lane& lane) {
  args.streams.dtype == DType::kF32 ? launch<float>(problem, args, sums, lane)
                                    : launch<uint16_t>(problem, args, sums, lane);
}

}  // namespace fulgurite::hyper_connection
