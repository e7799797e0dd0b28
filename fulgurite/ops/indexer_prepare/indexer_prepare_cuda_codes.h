#pragma once
// The Hadamard transform of a vector and its quantization.

#include "fulgurite/cuda/fp4.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda_vector.h"

namespace fulgurite::indexer_prepare::cuda {

// --- Hadamard ---

__device__ inline void butterfly(float& a, float& b) {
  const float sum = __fadd_rn(a, b);
  b = __fsub_rn(a, b);
  a = sum;
}
__device__ inline void hadamard(Vector& v, float root) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    butterfly(v[m][0], v[m][1]);
    butterfly(v[m][2], v[m][3]);
    butterfly(v[m][0], v[m][2]);
    butterfly(v[m][1], v[m][3]);
  }
#pragma unroll
  for (int bit = 1; bit < 8; bit *= 2) {
    const float sign = lane_of_vector() & bit ? -1.0f : 1.0f;  // the upper lane's own value is subtracted
#pragma unroll
    for (int m = 0; m < 4; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e)
        v[m][e] =
            __fmaf_rn(v[m][e], sign, __shfl_xor_sync(kAll, v[m][e], bit));  // +-v is exact: one rounding
    }
  }
#pragma unroll
  for (int e = 0; e < 4; ++e) {
    butterfly(v[0][e], v[1][e]);
    butterfly(v[2][e], v[3][e]);
    butterfly(v[0][e], v[2][e]);
    butterfly(v[1][e], v[3][e]);
  }
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[m][e] = __fmul_rn(v[m][e], root);
  }
}

// --- quantization ---

struct Codes {
  uint32_t part[4];
  float scale;
};

// A lane's values, rounded to bf16.
struct Rounded {
  uint32_t pair[4][2];
};
__device__ inline Rounded rounded(const Vector& v) {
  Rounded r;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    r.pair[m][0] = bf16_pair(v[m][0], v[m][1]);
    r.pair[m][1] = bf16_pair(v[m][2], v[m][3]);
  }
  return r;
}

// The largest magnitude of a vector as bf16 bits, which order as magnitudes do; from 0x7F80 on it is not
// finite.
__device__ inline uint32_t largest_magnitude(const Rounded& r) {
  uint32_t largest = 0;  // of either half
#pragma unroll
  for (int m = 0; m < 4; ++m)
    largest = __vmaxu2(__vmaxu2(largest, r.pair[m][0] & 0x7FFF7FFFu), r.pair[m][1] & 0x7FFF7FFFu);
#pragma unroll
  for (int bit = 1; bit < 8; bit *= 2) largest = __vmaxu2(largest, __shfl_xor_sync(kAll, largest, bit));
  return max(largest & 0xFFFFu, largest >> 16);
}

// As core/quantize.h.
__device__ inline Codes quantize(const Rounded& r, bool pow2) {
  const uint32_t largest = largest_magnitude(r);
  Codes codes{{0x7F7F7F7Fu, 0x7F7F7F7Fu, 0x7F7F7F7Fu, 0x7F7F7F7Fu}, 1.0f};
  if (largest >= 0x7F80u) return codes;
  codes.scale = e4m3_scale_of(bf16_to_float(static_cast<uint16_t>(largest)), pow2);
  const float inverse = __uint_as_float((254u << 23) - __float_as_uint(codes.scale));  // of a power of two
  // Times 2^-n divides exactly, but for quotients whose code is 0.
  const auto quotient = [&](float x) { return pow2 ? __fmul_rn(x, inverse) : __fdiv_rn(x, codes.scale); };
#pragma unroll
  for (int m = 0; m < 4; ++m)
    codes.part[m] = e4m3_pair(quotient(low_bf16(r.pair[m][0])), quotient(high_bf16(r.pair[m][0]))) |
                    e4m3_pair(quotient(low_bf16(r.pair[m][1])), quotient(high_bf16(r.pair[m][1]))) << 16;
  return codes;
}
// Groups of 32 dimensions, each a part of all eight lanes: what their fp4 codes are worth.
__device__ inline Rounded rounded_to_fp4(const Rounded& r) {
  Rounded values;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    uint32_t largest = __vmaxu2(r.pair[m][0] & 0x7FFF7FFFu, r.pair[m][1] & 0x7FFF7FFFu);  // of either half
#pragma unroll
    for (int bit = 1; bit < 8; bit *= 2) largest = __vmaxu2(largest, __shfl_xor_sync(kAll, largest, bit));
    largest = max(largest & 0xFFFFu, largest >> 16);
    const Fp4Group group(largest << 16);
#pragma unroll
    for (int i = 0; i < 2; ++i)
      values.pair[m][i] =
          bf16_pair(group.value(low_bf16(r.pair[m][i])), group.value(high_bf16(r.pair[m][i])));
  }
  return values;
}
__device__ inline void write(const Rounded& values, uint16_t* vector) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
    *reinterpret_cast<uint2*>(vector + 32 * m + 4 * lane_of_vector()) = {values.pair[m][0],
                                                                         values.pair[m][1]};
}
__device__ inline void write(const Codes& codes, uint8_t* vector) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
    *reinterpret_cast<uint32_t*>(vector + 32 * m + 4 * lane_of_vector()) = codes.part[m];
}

}  // namespace fulgurite::indexer_prepare::cuda
