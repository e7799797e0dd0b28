// Runs of a token's keys become one result (compressed_attention_cuda_parts.h): a warp has 128 columns of a head of a token.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_parts.h"

namespace fulgurite::compressed_attention {
namespace device {
namespace {

constexpr int kParts = kColumns / 4 / 32;  // of a row: a thread has four columns
constexpr int kFewRows = 512;              // up to here a warp is a block: they spread further

struct Ends {
  float weight;  // of split `lane`
  float largest, denominator;
  uint32_t any;  // a bit for each run that weighs something, or is NaN
};

// Every lane has a split; the sum is ascending.
__device__ __forceinline__ Ends merge_ends(const float2* ends, int64_t stride, int splits) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const float2 own = lane < splits ? __ldcg(ends + lane * stride) : float2{minus_infinity(), 0.0f};
  float largest = own.x;
#pragma unroll
  for (int apart = 16; apart > 0; apart /= 2) largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, apart));
  Ends all{exponential(own.x - weighed_against(largest)), largest, 0.0f, __ballot_sync(~0u, own.y != 0.0f)};
  for (int i = 0; i < splits; ++i)
    all.denominator = __fmaf_rn(__shfl_sync(~0u, own.y, i), __shfl_sync(~0u, all.weight, i), all.denominator);
  return all;
}

template <int kSplits>  // at most, and more than half of it
__global__ void __launch_bounds__(32 * kParts) merge_kernel(const __grid_constant__ CudaParams p) {
  release_successor();
  wait_for_predecessor();
  const int at = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), row = at / (32 * kParts);
  const int head = row % p.heads, token = row / p.heads, column = at % (32 * kParts) * 4;
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
    sum.x = __fmaf_rn(part[i].x, weight, sum.x);
    sum.y = __fmaf_rn(part[i].y, weight, sum.y);
    sum.z = __fmaf_rn(part[i].z, weight, sum.z);
    sum.w = __fmaf_rn(part[i].w, weight, sum.w);
  }
  const float inverse = inverse_of(ends.denominator, ends.largest, __ldg(p.sink + head));
  sum = {__fmul_rn(sum.x, inverse), __fmul_rn(sum.y, inverse), __fmul_rn(sum.z, inverse),
         __fmul_rn(sum.w, inverse)};
  if (column >= kCoded) {
    const int pair = (column - kCoded) / 2, position = p.places[token].position;
    rotate_back(p, position, pair, sum.x, sum.y);
    rotate_back(p, position, pair + 1, sum.z, sum.w);
  }
  uint2 out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.x) : "f"(sum.y), "f"(sum.x));
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out.y) : "f"(sum.w), "f"(sum.z));
  *reinterpret_cast<uint2*>(p.out + token * p.out_token + head * p.out_head + column) = out;
}

template <int kSplits>
void launch(const CudaParams& p, cudaStream_t stream) {
  const int rows = p.tokens * p.heads, together = rows <= kFewRows ? 1 : kParts;  // warps of a block
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(rows * kParts / together));
  config.blockDim = dim3(static_cast<unsigned>(32 * together));
  config.stream = stream;
  cudaLaunchAttribute attribute = dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, merge_kernel<kSplits>, p), "a launch");
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

}  // namespace fulgurite::compressed_attention
