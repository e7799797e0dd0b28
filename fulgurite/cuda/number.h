#pragma once
// The number formats of core/bf16.h and core/fp8.h on the device: the same bits for every fp32 value, NaN
// with its sign included, unless a function says otherwise.

#include <cstdint>

namespace fulgurite::cuda {

__device__ inline float low_bf16(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ inline float high_bf16(uint32_t pair) { return __uint_as_float(pair & 0xFFFF0000u); }
__device__ inline float bf16_to_float(uint16_t bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// Two values to nearest, ties to even; any NaN becomes 0x7FFF.
__device__ inline uint32_t bf16_pair(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline bool is_nan(float value) { return (__float_as_uint(value) & 0x7FFFFFFFu) > 0x7F800000u; }

__device__ inline uint16_t bf16_bits(float value) {
  const uint32_t rounded = is_nan(value) ? __float_as_uint(value) >> 16 | 0x0040u : bf16_pair(value, 0.0f);
  return static_cast<uint16_t>(rounded);
}
__device__ inline float bf16_rounded(float value) { return bf16_to_float(bf16_bits(value)); }

// Two e4m3 codes, clamped to +-448; any NaN becomes 0x7F.
__device__ inline uint32_t e4m3_pair(float low, float high) {
  uint16_t pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(high), "f"(low));
  return pair;
}

__device__ inline uint8_t e4m3_bits(float value) {
  const uint32_t sign = __float_as_uint(value) >> 24 & 0x80u;
  return static_cast<uint8_t>(is_nan(value) ? sign | 0x7Fu : e4m3_pair(value, 0.0f));
}

__device__ inline float e4m3_to_float(uint8_t bits) {
  const uint32_t magnitude = bits & 0x7Fu, sign = static_cast<uint32_t>(bits & 0x80u) << 24;
  if (magnitude == 0x7Fu) return __uint_as_float(sign | 0x7FC00000u);
  return __uint_as_float(__float_as_uint(__fmul_rn(__uint_as_float(magnitude << 20), 0x1p120f)) | sign);
}

// Exact: 2^-127 is an fp32 denormal.
__device__ inline float e8m0_to_float(uint8_t bits) {
  if (bits == 0xFFu) return __uint_as_float(0x7FC00000u);
  return __uint_as_float(bits == 0 ? 0x00400000u : static_cast<uint32_t>(bits) << 23);
}

// Scales as core/quantize.h has them; amax is finite.
__device__ inline float pow2_above(float value) {
  return __uint_as_float((__float_as_uint(value) + 0x7FFFFFu) & 0x7F800000u);
}
__device__ inline float e4m3_scale_of(float amax, bool pow2) {
  const float scale = __fmul_rn(fmaxf(amax, 1e-4f), static_cast<float>(1.0 / 448.0));
  return pow2 ? pow2_above(scale) : scale;
}

}  // namespace fulgurite::cuda
