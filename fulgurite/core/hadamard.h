#pragma once
// The Hadamard transform of the indexer, as docs/numerics.md has it.

#include <cmath>
#include <cstdint>
#include <span>

#include "fulgurite/core/host_device.h"

namespace fulgurite {

// fp32(n^-1/2)
FULGURITE_HOST_DEVICE inline float inverse_root(int64_t n) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n)));
}

// In place, of a power of two of values: Sylvester order, butterflies of stride 1, 2, 4, ..., each sum rounded; then every
// value times the inverse root of their number.
FULGURITE_HOST_DEVICE inline void hadamard(std::span<float> x) {
  for (size_t stride = 1; stride < x.size(); stride *= 2) {
    for (size_t i = 0; i < x.size(); ++i) {
      if ((i & stride) != 0) continue;
      const float a = x[i], b = x[i + stride];
      x[i] = a + b;
      x[i + stride] = a - b;
    }
  }
  const float scale = inverse_root(static_cast<int64_t>(x.size()));
  for (float& value : x) value = value * scale;
}

}  // namespace fulgurite
