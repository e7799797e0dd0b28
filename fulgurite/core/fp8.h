#pragma once
// The 8-bit floats of the checkpoints. e4m3 is e4m3fn: 1 sign, 4 exponent (bias 7), 3 fraction bits; the
// largest value is 448, there is no infinity, and S.1111.111 is NaN. e8m0 is an exponent alone, a scale:
// 2^(bits - 127), and 0xFF is NaN.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>

#include "fulgurite/core/host_device.h"

namespace fulgurite {

struct e4m3 {
  uint8_t bits;
};

inline constexpr float kLargestE4m3 = 448.0f;

FULGURITE_HOST_DEVICE inline float to_float(e4m3 value) {
  const uint32_t magnitude = value.bits & 0x7Fu;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80u) << 24;
  if (magnitude == 0x7Fu) return std::bit_cast<float>(sign | 0x7FC00000u);
  // The 7 bits, placed at fp32's exponent and fraction, are the value times 2^-120; subnormals included.
  const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

// e4m3(clamp(value, +-448)): to nearest, ties to even, subnormals included. NaN stays NaN.
FULGURITE_HOST_DEVICE inline e4m3 to_e4m3(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80u);
  if (std::isnan(value)) return {static_cast<uint8_t>(sign | 0x7Fu)};
  const float magnitude = std::fmin(std::fabs(value), kLargestE4m3);
  if (magnitude < 0x1p-6f) {
    // Subnormal: a multiple of 2^-9. Adding 2^14 leaves those multiples in the lowest bits, rounded.
    const float aligned = magnitude + 0x1p14f;
    return {
        static_cast<uint8_t>(sign | (std::bit_cast<uint32_t>(aligned) - std::bit_cast<uint32_t>(0x1p14f)))};
  }
  const uint32_t m = std::bit_cast<uint32_t>(magnitude);
  const uint32_t rounded = m + 0x7FFFFu + ((m >> 20) & 1u);  // 20 fraction bits go
  return {static_cast<uint8_t>(sign | ((rounded >> 20) - (120u << 3)))};
}

struct e8m0 {
  uint8_t bits;
};

// Exact: 2^-127 is an fp32 subnormal.
FULGURITE_HOST_DEVICE inline float to_float(e8m0 value) {
  if (value.bits == 0xFF) return std::numeric_limits<float>::quiet_NaN();
  const uint32_t bits = value.bits == 0 ? 0x00400000u : static_cast<uint32_t>(value.bits) << 23;
  return std::bit_cast<float>(bits);
}

// The code of exactly this value; none where it is no power of two in [2^-127, 2^127].
FULGURITE_HOST_DEVICE inline std::optional<e8m0> exact_e8m0(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (bits == 0x00400000u) return e8m0{0};
  if ((bits & 0x807FFFFFu) != 0 || bits == 0 || bits == 0x7F800000u) return std::nullopt;
  return e8m0{static_cast<uint8_t>(bits >> 23)};
}

}  // namespace fulgurite
