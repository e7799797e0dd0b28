#pragma once
// bfloat16: the upper half of an fp32. Widening is exact; narrowing rounds to nearest, ties to even.

#include <bit>
#include <cstdint>

#include "fulgurite/core/host_device.h"
#include "fulgurite/core/round_to_odd.h"

namespace fulgurite {

struct bf16 {
  uint16_t bits;
};

FULGURITE_HOST_DEVICE inline float to_float(bf16 value) {
  return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16);
}

// NaN stays NaN (quiet, sign kept); what lies beyond the largest bf16 becomes infinity.
FULGURITE_HOST_DEVICE inline bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

// The same of a double, rounded once.
FULGURITE_HOST_DEVICE inline bf16 to_bf16(double value) { return to_bf16(round_to_odd(value)); }

FULGURITE_HOST_DEVICE inline float round_to_bf16(float value) { return to_float(to_bf16(value)); }

}  // namespace fulgurite
