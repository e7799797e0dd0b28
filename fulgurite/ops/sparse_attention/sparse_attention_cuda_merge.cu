// The second kernel of split lists (sparse_attention_cuda.h): a warp has 128 columns of a
// head of a token.

#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention {
namespace device {
namespace {

constexpr int kThreads = 32, kParts = kCudaLatent / 4 / kThreads;  // a thread has four columns

struct Ends {
  float weight;       // of split `lane`
  float denominator;  // of all
};

// Every lane has a split; the sum is ascending.
__device__ __forceinline__ Ends merge_ends(const float2* ends, int64_t stride, int splits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float2 own = lane < splits ? ends[lane * stride] : float2{minus_infinity(), 0.0f};
  float largest = own.x;
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, apart));
  Ends all{exponential(own.x - weighed_against(largest)), 0.0f};
  for (int i = 0; i < splits; ++i)
    all.denominator = __fmaf_rn(__shfl_sync(~0u, own.y, i), __shfl_sync(~0u, all.weight, i), all.denominator);
  return all;
}

template <int kSplits>  // at most, and more than half of it
__global__ void __launch_bounds__(kThreads) merge_kernel(const __grid_constant__ CudaParams p) {
  wait_for_predecessor();
  release_successor();
  const int row = static_cast<int>(blockIdx.x) / kParts, head = row % p.heads, token = row / p.heads;
  const int column = (static_cast<int>(blockIdx.x) % kParts * kThreads + static_cast<int>(threadIdx.x)) * 4;
  const int64_t run = run_of(p, token, 0, head), stride = p.heads;
  const float* const sums = sums_of(p) + run * kCudaLatent + column;
  float4 part[kSplits];
#pragma unroll
  for (int i = 0; i < kSplits; ++i)
    part[i] = i < p.splits ? __ldcg(reinterpret_cast<const float4*>(sums + i * stride * kCudaLatent)) : float4{};
  const Ends ends = merge_ends(ends_of(p) + run, stride, p.splits);
  float4 sum{};
#pragma unroll
  for (int i = 0; i < kSplits; ++i) {
    const float weight = __shfl_sync(~0u, ends.weight, i);
    if (i >= p.splits) continue;
    sum.x = __fmaf_rn(part[i].x, weight, sum.x);
    sum.y = __fmaf_rn(part[i].y, weight, sum.y);
    sum.z = __fmaf_rn(part[i].z, weight, sum.z);
    sum.w = __fmaf_rn(part[i].w, weight, sum.w);
  }
  const float inverse = __frcp_rn(ends.denominator);
  uint2 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.x) : "f"(__fmul_rn(sum.y, inverse)), "f"(__fmul_rn(sum.x, inverse)));
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.y) : "f"(__fmul_rn(sum.w, inverse)), "f"(__fmul_rn(sum.z, inverse)));
  *reinterpret_cast<uint2*>(p.out + token * p.out_token + head * p.out_head + column) = out;
}

template <int kSplits>
void launch(const CudaParams& p, cudaStream_t stream) {
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.tokens * p.heads * kParts));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  cudaLaunchAttribute attribute = dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = 1;
  check_cuda(cudaLaunchKernelEx(&config, merge_kernel<kSplits>, p), "a launch");
}

}  // namespace
}  // namespace device

void launch_merge(const CudaParams& p, cudaStream_t stream) {
  if (p.splits <= 2)
    device::launch<2>(p, stream);
  else if (p.splits <= 4)
    device::launch<4>(p, stream);
  else if (p.splits <= 8)
    device::launch<8>(p, stream);
  else if (p.splits <= 16)
    device::launch<16>(p, stream);
  else
    device::launch<32>(p, stream);
}

}  // namespace fulgurite::sparse_attention
