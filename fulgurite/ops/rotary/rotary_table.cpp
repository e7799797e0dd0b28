#include "fulgurite/ops/rotary/rotary_table.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace fulgurite::rotary {
namespace {

// The dimension, not whole, that turns `rotations` times over the original positions.
double correction_dim(const Frequencies& frequencies, double rotations) {
  return static_cast<double>(frequencies.dim) *
         std::log(frequencies.yarn->original_positions / (2.0 * std::numbers::pi * rotations)) /
         (2.0 * std::log(frequencies.base));
}

// How much of frequency i is interpolated: 0 where it turns fast, 1 where it turns slowly.
double ramp(const Frequencies& frequencies, int64_t i) {
  const double last = static_cast<double>(frequencies.dim - 1);
  const double low =
      std::clamp(std::floor(correction_dim(frequencies, frequencies.yarn->beta_fast)), 0.0, last);
  const double high =
      std::clamp(std::ceil(correction_dim(frequencies, frequencies.yarn->beta_slow)), 0.0, last);
  const double width = low == high ? 0.001 : high - low;
  return std::clamp((static_cast<double>(i) - low) / width, 0.0, 1.0);
}

}  // namespace

float frequency(const Frequencies& frequencies, int64_t i) {
  const double exponent = static_cast<double>(2 * i) / static_cast<double>(frequencies.dim);
  const double plain = 1.0 / std::pow(frequencies.base, exponent);
  if (!frequencies.yarn) return static_cast<float>(plain);
  const double interpolated = ramp(frequencies, i);
  return static_cast<float>(plain * (1.0 - interpolated) + plain / frequencies.yarn->factor * interpolated);
}

void fill_table(const Frequencies& frequencies, View<float, 2> cosine, View<float, 2> sine) {
  const int64_t positions = cosine.extent[0], pairs = frequencies.dim / 2;
  FULGURITE_ASSERT(cosine.extent[1] == pairs && sine.extent == cosine.extent,
                   "rotary table: cosine [{}, {}] and sine [{}, {}] for {} pairs", positions,
                   cosine.extent[1], sine.extent[0], sine.extent[1], pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    const float turn = frequency(frequencies, i);
    for (int64_t p = 0; p < positions; ++p) {
      const double angle = static_cast<float>(p) * turn;
      cosine(p, i) = static_cast<float>(std::cos(angle));
      sine(p, i) = static_cast<float>(std::sin(angle));
    }
  }
}

}  // namespace fulgurite::rotary
