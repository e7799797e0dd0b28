#pragma once
// Activations to codes, as core/quantize.h: 16 lanes a token's group of 128 columns, 8 columns a lane.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {

inline constexpr int kLanesOfGroup = 16, kColumnsOfLane = 8;

// amax is finite.
__device__ inline float scale_of(float amax, ScaleRounding rounding) {
  if (rounding == ScaleRounding::kDivided) return __fdiv_rn(fmaxf(amax, 1e-4f), 448.0f);
  return e4m3_scale_of(amax, rounding == ScaleRounding::kPow2);
}

// The largest magnitude of eight bf16, as bits.
__device__ inline uint32_t largest(const uint4& x) {
  uint32_t most = 0;
  for (const uint32_t pair : {x.x, x.y, x.z, x.w})
    most = max(most, max(pair & 0x7FFFu, pair >> 16 & 0x7FFFu));
  return most;
}

// x / scale, rounded once: the remainder of a quotient that is off by a step at most, with the rounded reciprocal,
// rounds right (Markstein); of a power of two it is exact. Where the remainder is too small for fp32, so is the
// quotient for any code but zero.
__device__ inline float quotient(float x, float scale, float reciprocal) {
  const float near = __fmul_rn(x, reciprocal);
  return copysignf(__fmaf_rn(__fmaf_rn(-scale, near, x), reciprocal, near), x);  // a zero keeps its sign
}
__device__ inline uint32_t codes_of(uint32_t first, uint32_t second, float scale, float reciprocal) {
  const auto value = [&](float x) { return quotient(x, scale, reciprocal); };
  return e4m3_pair(value(low_bf16(first)), value(high_bf16(first))) |
         e4m3_pair(value(low_bf16(second)), value(high_bf16(second))) << 16;
}

// A lane's part of a group; all lanes of a warp take part.
__device__ inline CodedEight quantized(const uint4& x, ScaleRounding rounding) {
  uint32_t most = largest(x);
#pragma unroll
  for (int apart = kLanesOfGroup / 2; apart > 0; apart /= 2)
    most = max(most, __shfl_xor_sync(~0u, most, apart));
  if (most >= 0x7F80u) return {{0x7F7F7F7Fu, 0x7F7F7F7Fu}, 1.0f};
  const float scale = scale_of(low_bf16(most), rounding);
  const float reciprocal = __frcp_rn(scale);
  return {{codes_of(x.x, x.y, scale, reciprocal), codes_of(x.z, x.w, scale, reciprocal)}, scale};
}

}  // namespace fulgurite::linear::hopper
