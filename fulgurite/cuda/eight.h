#pragma once
// Eight neighbours of a row of activations, which one thread holds: T is uint16_t for bf16, or float.
// Addresses are multiples of 16. Rounding to bf16 makes any NaN 0x7FFF.

#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {

using Eight = float[8];

__device__ inline void read(Eight& v, const uint16_t* row) {
  const uint4 raw = __ldcg(reinterpret_cast<const uint4*>(row));
  const uint32_t pairs[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) v[2 * i] = low_bf16(pairs[i]), v[2 * i + 1] = high_bf16(pairs[i]);
}
__device__ inline void read(Eight& v, const float* row) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const float4 part = __ldcg(reinterpret_cast<const float4*>(row) + i);
    v[4 * i] = part.x, v[4 * i + 1] = part.y, v[4 * i + 2] = part.z, v[4 * i + 3] = part.w;
  }
}

__device__ inline void write(const Eight& v, uint16_t* row) {
  *reinterpret_cast<uint4*>(row) = {bf16_pair(v[0], v[1]), bf16_pair(v[2], v[3]), bf16_pair(v[4], v[5]),
                                    bf16_pair(v[6], v[7])};
}
__device__ inline void write(const Eight& v, float* row) {
  reinterpret_cast<float4*>(row)[0] = {v[0], v[1], v[2], v[3]};
  reinterpret_cast<float4*>(row)[1] = {v[4], v[5], v[6], v[7]};
}

struct CodedEight {
  uint2 codes;  // e4m3
  float scale;
};

// As core/quantize.h, power-of-two scales, of a group that kLanes neighbouring lanes hold.
template <int kLanes>
__device__ inline CodedEight quantized(const Eight& v) {
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < 8; ++i) largest = max(largest, __float_as_uint(v[i]) & 0x7FFFFFFFu);
#pragma unroll
  for (int bit = kLanes / 2; bit > 0; bit /= 2) largest = max(largest, __shfl_xor_sync(~0u, largest, bit));
  if (largest >= 0x7F800000u) return {{0x7F7F7F7Fu, 0x7F7F7F7Fu}, 1.0f};
  const float scale = e4m3_scale_of(__uint_as_float(largest), true);
  // Times 2^-n divides exactly, but for quotients whose code is 0.
  const float inverse = __uint_as_float((254u << 23) - __float_as_uint(scale));
  const auto pair = [&](int i) { return e4m3_pair(__fmul_rn(v[i], inverse), __fmul_rn(v[i + 1], inverse)); };
  return {{pair(0) | pair(2) << 16, pair(4) | pair(6) << 16}, scale};
}

// To what T stores.
template <class T>
__device__ inline void round(Eight& v) {
  if constexpr (sizeof(T) == 2) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const uint32_t pair = bf16_pair(v[i], v[i + 1]);
      v[i] = low_bf16(pair), v[i + 1] = high_bf16(pair);
    }
  }
}

}  // namespace fulgurite::cuda
