#pragma once
// fp16, IEEE 754's binary16: 1 sign, 5 exponent and 10 fraction bits, denormals, infinities. Widening is
// exact; narrowing rounds to nearest, ties to even.

#include <bit>
#include <cstdint>

#include "fulgurite/core/host_device.h"
#include "fulgurite/core/round_to_odd.h"

namespace fulgurite {

struct fp16 {
  uint16_t bits;
};

// NaN becomes quiet, its payload kept.
FULGURITE_HOST_DEVICE inline float to_float(fp16 value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16, magnitude = value.bits & 0x7FFFu;
  if (magnitude > 0x7C00u) return std::bit_cast<float>(sign | 0x7FC00000u | magnitude << 13);
  if (magnitude == 0x7C00u) return std::bit_cast<float>(sign | 0x7F800000u);
  if (magnitude >= 0x0400u) return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
  const float denormal = static_cast<float>(magnitude) * 0x1p-24f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(denormal));
}

// From 65520 on infinity; denormals are kept; NaN stays NaN (quiet, sign and upper payload kept).
FULGURITE_HOST_DEVICE inline fp16 to_fp16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t sign = (bits >> 16) & 0x8000u;
  uint32_t result = 0;
  if (magnitude > 0x7F800000u)
    result = 0x7E00u | (magnitude >> 13 & 0x03FFu);
  else if (magnitude >= 0x477FF000u)  // 65520
    result = 0x7C00u;
  else if (magnitude < 0x38800000u)  // 2^-14: beside 0.5 a step is 2^-24, that of fp16's denormals
    result = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  else
    result = ((magnitude + 0x0FFFu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10);
  return {static_cast<uint16_t>(sign | result)};
}

// The same of a double, rounded once.
FULGURITE_HOST_DEVICE inline fp16 to_fp16(double value) { return to_fp16(round_to_odd(value)); }

FULGURITE_HOST_DEVICE inline float round_to_fp16(float value) { return to_float(to_fp16(value)); }

}  // namespace fulgurite
