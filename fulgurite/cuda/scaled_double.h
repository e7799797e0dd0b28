#pragma once
// fp32 values as doubles by integer instructions, which are more than the converting ones: the bits, placed at a
// double's, are the value times 2^-896, zeros and denormals included. Infinities and NaN are not: a caller
// asks all_finite first.

#include <cstdint>

namespace fulgurite::cuda {

__device__ inline double scaled_down(float value) {
  const int bits = __float_as_int(value);
  return __hiloint2double(bits >> 3 & static_cast<int>(0x8FFFFFFFu), bits << 29);
}

// Times 2^104.
__device__ inline double scaled_up(float value) { return __dmul_rn(scaled_down(value), 0x1p1000); }

template <int N>
__device__ bool all_finite(const float (&values)[N]) {
  float sum = 0.0f;  // of zeros, or NaN
#pragma unroll
  for (int i = 0; i < N; ++i) sum = __fmaf_rn(values[i], 0.0f, sum);
  return sum == 0.0f;
}

}  // namespace fulgurite::cuda
