#pragma once
// The second kernels of attention over runs of keys: of a head of a token a warp has 128 of the 512 columns, a thread
// four of them, and the runs are added in ascending order.

#include <type_traits>

#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/discard.h"
#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {

inline constexpr int kMergeWarps = 512 / 4 / 32;  // of a row
inline constexpr unsigned kFewLines = 16384;  // of L2, of all runs: below, writing them to memory costs less
inline constexpr int kFewMergeRows = 512;     // up to here a warp is a block: they spread further

__device__ __forceinline__ float largest_of_lanes(float value) {
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, apart));
  return value;
}

__device__ __forceinline__ void add_weighted(float4& sum, const float4& part, float weight) {
  sum.x = __fmaf_rn(part.x, weight, sum.x);
  sum.y = __fmaf_rn(part.y, weight, sum.y);
  sum.z = __fmaf_rn(part.z, weight, sum.z);
  sum.w = __fmaf_rn(part.w, weight, sum.w);
}

__device__ __forceinline__ float4 times(const float4& v, float factor) {
  return {__fmul_rn(v.x, factor), __fmul_rn(v.y, factor), __fmul_rn(v.z, factor), __fmul_rn(v.w, factor)};
}

__device__ __forceinline__ void write_bf16(uint16_t* to, const float4& v) {
  *reinterpret_cast<uint2*>(to) = {bf16_pair(v.x, v.y), bf16_pair(v.z, v.w)};
}

// A warp's 128 sums of each run, `stride` apart, which it has added: they are read by nobody else. `sums` are the thread's four.
__device__ __forceinline__ void discard_runs(const float* sums, int64_t stride, int runs) {
  const unsigned lines = gridDim.x * blockDim.x / 8 * static_cast<unsigned>(runs);
  if (lines < kFewLines) return;
  __syncwarp();
  if (threadIdx.x % 8 != 0) return;  // a thread a line
  for (int i = 0; i < runs; ++i) discard_line(sums + i * stride);
}

// kernel_for(std::integral_constant<int, N>) is the kernel of at most N runs, and more than half as many; N to 32.
template <class Params, class KernelFor>
cudaError_t launch_merge_of(const Params& p, int rows, int runs, cudaStream_t stream,
                            const KernelFor& kernel_for) {
  const int together = rows <= kFewMergeRows ? 1 : kMergeWarps;  // warps of a block
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(rows * kMergeWarps / together));
  config.blockDim = dim3(static_cast<unsigned>(32 * together));
  config.stream = stream;
  cudaLaunchAttribute attribute = dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = 1;
  const auto with = [&](auto most) { return cudaLaunchKernelEx(&config, kernel_for(most), p); };
  if (runs <= 2) return with(std::integral_constant<int, 2>{});
  if (runs <= 4) return with(std::integral_constant<int, 4>{});
  if (runs <= 8) return with(std::integral_constant<int, 8>{});
  if (runs <= 16) return with(std::integral_constant<int, 16>{});
  return with(std::integral_constant<int, 32>{});
}

}  // namespace fulgurite::cuda
