// Runs of a token's keys become one result (compressed_attention_cuda_parts.h): a warp has 128 columns of a head of a token.

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/merge_runs.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_parts.h"

namespace fulgurite::compressed_attention {
namespace device {
namespace {

static_assert(kColumns == 128 * kMergeWarps);

struct Ends {
  float weight;  // of split `lane`
  float largest, denominator;
  uint32_t any;  // a bit for each run that weighs something, or is NaN
};

// Every lane has a split; the sum is ascending.
__device__ __forceinline__ Ends merge_ends(const float2* ends, int64_t stride, int splits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float2 own = lane < splits ? __ldcg(ends + lane * stride) : float2{minus_infinity(), 0.0f};
  const float largest = largest_of_lanes(own.x);
  Ends all{exponential(own.x - weighed_against(largest)), largest, 0.0f, __ballot_sync(~0u, own.y != 0.0f)};
  for (int i = 0; i < splits; ++i)
    all.denominator = __fmaf_rn(__shfl_sync(~0u, own.y, i), __shfl_sync(~0u, all.weight, i), all.denominator);
  return all;
}

template <int kSplits>  // at most, and more than half of it
__global__ void __launch_bounds__(32 * kMergeWarps) merge_kernel(const __grid_constant__ CudaParams p) {
  release_successor();
  wait_for_predecessor();
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = at / (32 * kMergeWarps);
  const int head = row % p.heads, token = row / p.heads, column = at % (32 * kMergeWarps) * 4;
  const int64_t run = run_of(p, token, 0, head), stride = p.heads;
  const float* const sums = sums_of(p) + run * kColumns + column;
  float4 part[kSplits];  // of runs without keys whatever stands there
#pragma unroll
  for (int i = 0; i < kSplits; ++i)
    part[i] = i < p.splits ? __ldcg(reinterpret_cast<const float4*>(sums + i * stride * kColumns)) : float4{};
  const Ends ends = merge_ends(ends_of(p) + run, stride, p.splits);
  float4 sum{};
#pragma unroll
  for (int i = 0; i < kSplits; ++i) {
    const float weight = __shfl_sync(~0u, ends.weight, i);
    if ((ends.any >> i & 1) == 0) continue;
    add_weighted(sum, part[i], weight);
  }
  const float inverse = inverse_of(ends.denominator, ends.largest, __ldg(p.sink + head));
  sum = times(sum, inverse);
  if (column >= kCoded) {
    const int pair = (column - kCoded) / 2, position = p.places[token].position;
    rotate_back(p, position, pair, sum.x, sum.y);
    rotate_back(p, position, pair + 1, sum.z, sum.w);
  }
  write_bf16(p.out + token * p.out_token + head * p.out_head + column, sum);
  discard_runs(sums, stride * kColumns, p.splits);
}

}  // namespace
}  // namespace device

void launch_merge(const CudaParams& p, cudaStream_t stream) {
  cuda::check(cuda::launch_merge_of(p, p.tokens * p.heads, p.splits, stream,
                                    [](auto most) { return device::merge_kernel<most()>; }),
              "compressed_attention: a launch");
}

}  // namespace fulgurite::compressed_attention
