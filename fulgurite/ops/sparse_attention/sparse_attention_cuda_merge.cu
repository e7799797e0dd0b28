// The second kernel of split lists (sparse_attention_cuda.h): a warp has 128 columns of a
// head of a token.

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/merge_runs.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention {
namespace device {
namespace {

static_assert(kCudaLatent == 128 * kMergeWarps);

struct Ends {
  float weight;       // of split `lane`
  float denominator;  // of all
};

// Every lane has a split; the sum is ascending.
__device__ __forceinline__ Ends merge_ends(const float2* ends, int64_t stride, int splits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float2 own = lane < splits ? ends[lane * stride] : float2{minus_infinity(), 0.0f};
  const float largest = largest_of_lanes(own.x);
  Ends all{exponential(own.x - weighed_against(largest)), 0.0f};
  for (int i = 0; i < splits; ++i)
    all.denominator = __fmaf_rn(__shfl_sync(~0u, own.y, i), __shfl_sync(~0u, all.weight, i), all.denominator);
  return all;
}

template <int kSplits>  // at most, and more than half of it
__global__ void __launch_bounds__(32 * kMergeWarps) merge_kernel(const __grid_constant__ CudaParams p) {
  wait_for_predecessor();
  release_successor();
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = at / (32 * kMergeWarps);
  const int head = row % p.heads, token = row / p.heads, column = at % (32 * kMergeWarps) * 4;
  const int64_t run = run_of(p, token, 0, head), stride = p.heads;
  const float* const sums = sums_of(p) + run * kCudaLatent + column;
  float4 part[kSplits];
#pragma unroll
  for (int i = 0; i < kSplits; ++i)
    part[i] =
        i < p.splits ? __ldcg(reinterpret_cast<const float4*>(sums + i * stride * kCudaLatent)) : float4{};
  const Ends ends = merge_ends(ends_of(p) + run, stride, p.splits);
  float4 sum{};
#pragma unroll
  for (int i = 0; i < kSplits; ++i) {
    const float weight = __shfl_sync(~0u, ends.weight, i);
    if (i >= p.splits) continue;
    add_weighted(sum, part[i], weight);
  }
  write_bf16(p.out + token * p.out_token + head * p.out_head + column,
             times(sum, __frcp_rn(ends.denominator)));
  discard_runs(sums, stride * kCudaLatent, p.splits);
}

}  // namespace
}  // namespace device

void launch_merge(const CudaParams& p, cudaStream_t stream) {
  cuda::check(cuda::launch_merge_of(p, p.tokens * p.heads, p.splits, stream,
                                    [](auto most) { return device::merge_kernel<most()>; }),
              "sparse_attention: a launch");
}

}  // namespace fulgurite::sparse_attention
