#pragma once
// The named roundings of docs/numerics.md that more than one operation makes.

#include <cmath>

#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite {

// May reciprocal_sqrt do what the knob rsqrt says on this device?
//
//   correct    fp32(1 / sqrt((double) m)), one rounding
//   two_step   1.0f / sqrtf(m), two
//   x86_12     RSQRTSS: within 1.5 * 2^-12 of the value; the bits are the processor's own
//   x86_14     VRSQRT14SS: within 2^-14; needs AVX-512
//   error:E    fp32(correct * (1 + E))
Support takes_rsqrt(const Setting& setting);

// rsqrt = correct.
FULGURITE_HOST_DEVICE inline float correct_reciprocal_sqrt(float m) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(m)));
}

// 1 / sqrt(m), m in fp32, as takes_rsqrt lists.
float reciprocal_sqrt(float m, const Numerics& numerics);

}  // namespace fulgurite
