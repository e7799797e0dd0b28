#pragma once
// e2m1, the 4-bit float of MXFP4 and NVFP4: 1 sign, 2 exponent (bias 1), 1 fraction bit; no infinity, no NaN.
// Source: OCP Microscaling Formats (MX) v1.0, table 5; two codes a byte as DeepSeek and NVIDIA store them.

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "fulgurite/core/host_device.h"

namespace fulgurite {

inline constexpr float kLargestE2m1 = 6.0f;

struct e2m1 {
  uint8_t bits;  // the low four
};

// Two neighbours of a row, the even column in the low half.
struct e2m1x2 {
  uint8_t bits;
};

FULGURITE_HOST_DEVICE inline float to_float(e2m1 value) {
  constexpr float kMagnitudes[]{0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  const float magnitude = kMagnitudes[value.bits & 7u];
  return (value.bits & 8u) != 0 ? -magnitude : magnitude;
}

FULGURITE_HOST_DEVICE inline e2m1 unpack(e2m1x2 pair, int64_t column) {
  return {static_cast<uint8_t>(column % 2 == 0 ? pair.bits & 0xFu : pair.bits >> 4)};
}
FULGURITE_HOST_DEVICE inline e2m1x2 pack(e2m1 even, e2m1 odd) {
  return {static_cast<uint8_t>(even.bits | odd.bits << 4)};
}

// To the nearest, ties to the even code, clamped to +-6; value is no NaN.
FULGURITE_HOST_DEVICE inline e2m1 to_e2m1(float value) {
  const float magnitude = std::min(std::fabs(value), kLargestE2m1);
  const float step = magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f;
  const int steps = static_cast<int>(std::nearbyint(magnitude / step));  // 0..4, 2..4, 2..3
  const int code = steps + (step == 0.5f ? 0 : step == 1.0f ? 2 : 4);
  return {static_cast<uint8_t>(code | (std::signbit(value) ? 8 : 0))};
}

}  // namespace fulgurite
