#include "fulgurite/core/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace fulgurite {
namespace {

constexpr float kSmallestAmax = 1e-4f;
constexpr float kPerE4m3 = static_cast<float>(1.0 / 448.0);
constexpr float kSmallestFp4Amax = 0x1.8p-124f;  // 6 * 2^-126
constexpr float kPerFp4 = static_cast<float>(1.0 / 6.0);

// The largest magnitude; NaN where any value is NaN or infinite.
float largest_magnitude(std::span<const float> x) {
  float amax = 0.0f;
  for (const float value : x) {
    if (!std::isfinite(value)) return NAN;
    amax = std::max(amax, std::fabs(value));
  }
  return amax;
}

// To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; ties to the even code.
float nearest_e2m1(float value) {
  const float magnitude = std::fabs(value);
  const float step = magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f;
  return std::copysign(std::min(std::nearbyint(magnitude / step) * step, 6.0f), value);
}

void round_group_to_fp4(std::span<float> x) {
  const float amax = largest_magnitude(x);
  const float scale = round_up_to_pow2(std::max(amax, kSmallestFp4Amax) * kPerFp4);
  for (float& value : x) value = std::isnan(amax) ? NAN : nearest_e2m1(value / scale) * scale;
}

ScaleRounding plain_rounding(const Numerics& numerics) {
  return numerics.scale_form == ScaleForm::kDivided ? ScaleRounding::kDivided : ScaleRounding::kNone;
}

}  // namespace

ScaleRounding activation_rounding(const Numerics& numerics) {
  return numerics.activation_scale == ActivationScale::kPow2 ? ScaleRounding::kPow2
                                                             : plain_rounding(numerics);
}

ScaleRounding index_rounding(const Numerics& numerics) {
  return numerics.index_scale == IndexScale::kPow2 ? ScaleRounding::kPow2 : plain_rounding(numerics);
}

float round_up_to_pow2(float value) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x7FFFFFu) & 0x7F800000u);
}

float e4m3_scale(float amax, ScaleRounding rounding) {
  const float magnitude = std::max(amax, kSmallestAmax);
  if (rounding == ScaleRounding::kDivided) return magnitude / 448.0f;
  const float scale = magnitude * kPerE4m3;
  return rounding == ScaleRounding::kPow2 ? round_up_to_pow2(scale) : scale;
}

float quantize_e4m3(std::span<const float> x, ScaleRounding rounding, e4m3* codes) {
  const float amax = largest_magnitude(x);
  if (std::isnan(amax)) {
    std::fill_n(codes, x.size(), e4m3{0x7F});
    return 1.0f;
  }
  const float scale = e4m3_scale(amax, rounding);
  for (size_t i = 0; i < x.size(); ++i) codes[i] = to_e4m3(x[i] / scale);
  return scale;
}

void round_to_fp4(std::span<float> x) {
  while (!x.empty()) {
    const size_t count = std::min<size_t>(x.size(), kFp4Group);
    round_group_to_fp4(x.first(count));
    x = x.subspan(count);
  }
}

}  // namespace fulgurite
