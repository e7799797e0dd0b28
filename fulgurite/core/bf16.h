#pragma once
// bfloat16: the upper half of an fp32. Widening is exact; narrowing rounds to nearest, ties to even.

#include <bit>
#include <cstdint>

namespace fulgurite {

struct bf16 {
  uint16_t bits;
};

inline float to_float(bf16 value) { return std::bit_cast<float>(static_cast<uint32_t>(value.bits) << 16); }

// NaN stays NaN (quiet, sign kept); what lies beyond the largest bf16 becomes infinity.
inline bf16 to_bf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return {static_cast<uint16_t>((bits >> 16) | 0x0040u)};
  return {static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16)};
}

// The same of a double, rounded once: the fp32 on the way is rounded to odd, so that it is a tie of the
// second rounding only where the double is.
inline bf16 to_bf16(double value) {
  const float nearest = static_cast<float>(value);
  const double rest = value - static_cast<double>(nearest);
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  const bool inexact = rest > 0.0 || rest < 0.0;  // not for infinity and NaN
  if (inexact && (bits & 0x7FFFFFFFu) < 0x7F800000u && (bits & 1u) == 0)
    bits += (rest > 0.0) == (value > 0.0) ? 1u : ~0u;
  return to_bf16(std::bit_cast<float>(bits));
}

inline float round_to_bf16(float value) { return to_float(to_bf16(value)); }

}  // namespace fulgurite
