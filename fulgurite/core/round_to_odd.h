#pragma once
// A double on its way to a type of fewer bits, so that it is rounded once.

#include <bit>
#include <cstdint>

#include "fulgurite/core/host_device.h"

namespace fulgurite {

// The fp32 that is value, or of the two around it the odd one: a tie of a second rounding only where the
// double is one.
FULGURITE_HOST_DEVICE inline float round_to_odd(double value) {
  const float nearest = static_cast<float>(value);
  const double rest = value - static_cast<double>(nearest);
  uint32_t bits = std::bit_cast<uint32_t>(nearest);
  const bool inexact = rest > 0.0 || rest < 0.0;  // not for infinity and NaN
  if (inexact && (bits & 0x7FFFFFFFu) < 0x7F800000u && (bits & 1u) == 0)
    bits += (rest > 0.0) == (value > 0.0) ? 1u : ~0u;
  return std::bit_cast<float>(bits);
}

}  // namespace fulgurite
