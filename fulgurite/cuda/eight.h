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
