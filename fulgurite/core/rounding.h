#pragma once
// The named roundings of docs/numerics.md that more than one operation makes.

#include <cmath>

#include "fulgurite/core/implementation.h"

namespace fulgurite {

// The values of the knob that reciprocal_sqrt computes.
inline Support takes_rsqrt(Rsqrt knob) { return takes(knob, {Rsqrt::kCorrect, Rsqrt::kTwoStep}); }

// 1 / sqrt(m), m in fp32: one rounding of the double quotient, or two fp32 steps.
inline float reciprocal_sqrt(float m, Rsqrt knob) {
  if (knob == Rsqrt::kTwoStep) return 1.0f / std::sqrt(m);
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(m)));
}

}  // namespace fulgurite
