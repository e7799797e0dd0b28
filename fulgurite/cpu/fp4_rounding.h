#pragma once
// round_to_fp4 (core/quantize.h), bit for bit, in steps that a compiler does several at once on any x86-64.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

#include "fulgurite/core/quantize.h"

namespace fulgurite::cpu {

// One group of up to kFp4Group values, in place.
inline void round_group_to_fp4(float* x, int64_t count) {
  int32_t largest = 0;  // of magnitudes, whose bits ascend as they do
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7FFFFFFF);
  if (largest >= 0x7F800000) {
    std::fill_n(x, count, NAN);
    return;
  }
  constexpr float kSmallestAmax = 0x1.8p-124f, kPerFp4 = static_cast<float>(1.0 / 6.0);
  const float amax = std::max(std::bit_cast<float>(largest), kSmallestAmax);
  const float scale = round_up_to_pow2(amax * kPerFp4);
  const float inverse = 1.0f / scale;  // exact: 2^-126 to 2^126
  for (int64_t i = 0; i < count; ++i) {
    const float value = x[i] * inverse, magnitude = std::fabs(value);
    // A sum with 2^22 has steps of 0.5, and the sum's rounding is ours: to nearest, ties to even.
    const float coarse = magnitude < 4.0f ? 0x1p23f : 0x1p24f;
    const float shift = magnitude < 2.0f ? 0x1p22f : coarse;
    const float rounded = (magnitude + shift) - shift;
    x[i] = std::copysign(std::min(rounded, 6.0f), value) * scale;
  }
}

inline void round_to_fp4(float* x, int64_t count) {
  for (int64_t first = 0; first < count; first += kFp4Group)
    round_group_to_fp4(x + first, std::min(kFp4Group, count - first));
}

}  // namespace fulgurite::cpu
