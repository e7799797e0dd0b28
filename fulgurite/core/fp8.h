#pragma once
// The 8-bit floats of the checkpoints. e4m3 is e4m3fn: 1 sign, 4 exponent (bias 7), 3 fraction bits; the
// largest value is 448, there is no infinity, and S.1111.111 is NaN.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace fulgurite {

struct e4m3 {
  uint8_t bits;
};

inline float to_float(e4m3 value) {
  const uint32_t magnitude = value.bits & 0x7Fu;
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x80u) << 24;
  if (magnitude == 0x7Fu) return std::bit_cast<float>(sign | 0x7FC00000u);
  // The 7 bits, placed at fp32's exponent and fraction, are the value times 2^-120; subnormals included.
  const float scaled = std::bit_cast<float>(magnitude << 20) * 0x1p120f;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(scaled) | sign);
}

}  // namespace fulgurite
