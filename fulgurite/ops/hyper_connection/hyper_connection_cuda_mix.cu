// A block takes 2,048 columns of a token: it adds the slices' sums that it needs, its warps sharing them, and
// collapses. One more block a token makes what the next site mixes with, which takes longer than a collapse:
// Sinkhorn is a chain of divisions.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/settled.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cuda_kernels.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32, kColumns = 8 * kThreads;
constexpr int kSquares = kSums - 1, kFirstOfMix = 2 * kStreams;
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
  int hidden, slices, outputs, parts, iterations;
  float eps, norm_eps;
  bool two_step_rsqrt;
};

// The sum of all slices of output `lane`: dealt to the warps, whose sums are added ascending. In the first warp.
__device__ double whole_sum(const double* sums, int slices, bool wanted) {
  __shared__ double of_warps[kWarps][32];
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  double sum = 0.0;
  if (wanted) {
#pragma unroll 8
    for (int s = warp; s < slices; s += kWarps) sum = __dadd_rn(sum, __ldcg(sums + s * kSums + lane));
  }
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp != 0) return 0.0;
#pragma unroll
  for (int w = 1; w < kWarps; ++w) sum = __dadd_rn(sum, of_warps[w][lane]);
  return sum;
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
  const float squares = static_cast<float>(__ddiv_rn(sum, static_cast<double>(kStreams * p.hidden)));
  const float mean = __shfl_sync(kAll, squares, kSquares);
  const float r = cuda::reciprocal_root(__fadd_rn(mean, p.norm_eps), p.two_step_rsqrt);
  return __fadd_rn(__fmul_rn(__fmul_rn(static_cast<float>(sum), r), scale), base);
}

__device__ float sigmoid(float z) {
  return static_cast<float>(__ddiv_rn(1.0, __dadd_rn(1.0, exp(-static_cast<double>(z)))));
}

__device__ float sinkhorn(float logit, float eps, int iterations) {
  const float largest = largest_of_row(logit);
  float c = static_cast<float>(exp(static_cast<double>(__fsub_rn(logit, largest))));
  c = __fadd_rn(__fdiv_rn(c, row_sum(c)), eps);
  c = __fdiv_rn(c, __fadd_rn(column_sum(c), eps));
#pragma unroll 1
  for (int i = 1; i < iterations; ++i) {
    c = __fdiv_rn(c, __fadd_rn(row_sum(c), eps));
    c = __fdiv_rn(c, __fadd_rn(column_sum(c), eps));
  }
  return c;
}

template <class T>
__device__ void write_coefficients(const Params<T>& p, int64_t t, float z) {
  const int lane = static_cast<int>(threadIdx.x), of_mix = lane - kFirstOfMix;
  if (lane >= kStreams && lane < kFirstOfMix)
    p.post_out[t * p.post_stride + lane - kStreams] = __fmul_rn(2.0f, sigmoid(z));
  __syncwarp();
  const float c = sinkhorn(z, p.eps, p.iterations);
  if (of_mix >= 0 && of_mix < static_cast<int>(kStreams * kStreams))
    p.mix_out[t * p.mix_stride + of_mix / 4 * p.mix_row_stride + of_mix % 4] = c;
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

template <class T>
__global__ void __launch_bounds__(kThreads) mix(const __grid_constant__ Params<T> p) {
  __shared__ float pre[kStreams];
  cuda::release_successor();
  const int64_t t = blockIdx.y;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const bool mixes = static_cast<int>(blockIdx.x) == p.parts;
  const int column = static_cast<int>(blockIdx.x) * kColumns + static_cast<int>(threadIdx.x) * 8;
  const bool collapses = !mixes && column < p.hidden;
  float base = 0.0f, scale = 0.0f;
  if (threadIdx.x < 32 && lane < p.outputs) {
    base = __ldg(p.base + lane);
    scale = __ldg(p.scale + (lane < kStreams ? 0 : lane < kFirstOfMix ? 1 : 2));
  }
  cuda::wait_for_predecessor();
  cuda::Eight x[kStreams];
  if (collapses) read_streams(p, t, column, x);
  const bool wanted = lane < kStreams || lane == kSquares || (mixes && lane < kSquares);
  const double sum = whole_sum(p.sums + t * p.slices * kSums, p.slices, wanted);
  if (threadIdx.x < 32) {
    const float z = z_of(p, sum, scale, base);
    if (mixes)
      write_coefficients(p, t, z);
    else if (lane < kStreams)
      pre[lane] = __fadd_rn(sigmoid(z), p.eps);
  }
  if (mixes) return;
  __syncthreads();
  if (!collapses) return;
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
void launch(const Problem& problem, const Args& args, const double* sums, const Lane& lane) {
  const ConstTensor<3> x = updates(args) ? ConstTensor<3>(args.streams_out) : args.streams;
  const bool layer = problem.kind == Kind::kLayer;
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
                         static_cast<int>(problem.hidden),
                         static_cast<int>(slices_of(problem)),
                         static_cast<int>(outputs(problem)),
                         static_cast<int>((problem.hidden + kColumns - 1) / kColumns),
                         problem.sinkhorn_iterations,
                         problem.eps,
                         problem.norm_eps,
                         problem.setting.numerics.rsqrt == Rsqrt::kTwoStep};
  const auto blocks = static_cast<unsigned>(params.parts + (layer ? 1 : 0)),
             tokens = static_cast<unsigned>(args.streams.extent[0]);
  cuda::launch(lane, {{blocks, tokens}, kThreads}, mix<T>, params);
}

}  // namespace

void launch_mix(const Problem& problem, const Args& args, const double* sums, const Lane& lane) {
  args.streams.dtype == DType::kF32 ? launch<float>(problem, args, sums, lane)
                                    : launch<uint16_t>(problem, args, sums, lane);
}

}  // namespace fulgurite::hyper_connection
