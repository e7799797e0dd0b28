#pragma once
// The quantizers of docs/numerics.md: one scale for a group of values, and its codes.
//
//   e4m3   scale = max(amax, 1e-4) * fp32(1/448), or / 448, or rounded up to a power of two, which is the
//          same of both; codes = e4m3(clamp(x / scale, +-448)); a group with NaN or infinity: NaN codes and scale 1
//   e2m1   (fp4) groups of 32: scale = max(amax, 6 * 2^-126) * fp32(1/6), rounded up to a power of two;
//          what is kept are the dequantized values, each exact in bf16; NaN or infinity: all NaN
//
// Source     DeepSeek-V3.2-Exp inference/kernel.py, act_quant; docs/numerics.md.

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "fulgurite/core/fp8.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/numerics.h"
#include "fulgurite/core/scale_rounding.h"

namespace fulgurite {

inline constexpr int64_t kActivationGroup = 128;  // columns that share an activation's scale
inline constexpr int64_t kFp4Group = 32;

// Of the codes that are made as a session runs: of activations, and of index q and keys.
inline ScaleRounding plain_rounding(const Numerics& numerics) {
  return numerics.scale_form == ScaleForm::kDivided ? ScaleRounding::kDivided : ScaleRounding::kNone;
}
inline ScaleRounding activation_rounding(const Numerics& numerics) {
  return numerics.activation_scale == ActivationScale::kPow2 ? ScaleRounding::kPow2
                                                             : plain_rounding(numerics);
}
inline ScaleRounding index_rounding(const Numerics& numerics) {
  return numerics.index_scale == IndexScale::kPow2 ? ScaleRounding::kPow2 : plain_rounding(numerics);
}

// The smallest power of two that is >= value; value > 0 and finite.
FULGURITE_HOST_DEVICE inline float round_up_to_pow2(float value) {
  return std::bit_cast<float>((std::bit_cast<uint32_t>(value) + 0x7FFFFFu) & 0x7F800000u);
}

// The e4m3 scale of a group whose largest magnitude is amax (finite).
FULGURITE_HOST_DEVICE inline float e4m3_scale(float amax, ScaleRounding rounding) {
  constexpr float kSmallestAmax = 1e-4f, kPerE4m3 = static_cast<float>(1.0 / 448.0);
  const float magnitude = std::max(amax, kSmallestAmax);
  if (rounding == ScaleRounding::kDivided) return magnitude / 448.0f;
  const float scale = magnitude * kPerE4m3;
  return rounding == ScaleRounding::kPow2 ? round_up_to_pow2(scale) : scale;
}

// The fp4 scale, likewise.
FULGURITE_HOST_DEVICE inline float fp4_scale(float amax) {
  constexpr float kSmallestAmax = 0x1.8p-124f, kPerFp4 = static_cast<float>(1.0 / 6.0);  // 6 * 2^-126
  return round_up_to_pow2(std::max(amax, kSmallestAmax) * kPerFp4);
}

// The largest magnitude; NaN where any value is NaN or infinite.
FULGURITE_HOST_DEVICE inline float largest_magnitude(std::span<const float> x) {
  float amax = 0.0f;
  for (const float value : x) {
    if (!std::isfinite(value)) return std::numeric_limits<float>::quiet_NaN();
    amax = std::max(amax, std::fabs(value));
  }
  return amax;
}

// Codes of one group; returns its scale.
FULGURITE_HOST_DEVICE inline float quantize_e4m3(std::span<const float> x, ScaleRounding rounding,
                                                 e4m3* codes) {
  const float amax = largest_magnitude(x);
  const bool finite = !std::isnan(amax);
  const float scale = finite ? e4m3_scale(amax, rounding) : 1.0f;
  for (size_t i = 0; i < x.size(); ++i) codes[i] = finite ? to_e4m3(x[i] / scale) : e4m3{0x7F};
  return scale;
}

// To the nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6; ties to the even code.
FULGURITE_HOST_DEVICE inline float nearest_e2m1(float value) {
  const float magnitude = std::fabs(value);
  const float step = magnitude < 2.0f ? 0.5f : magnitude < 4.0f ? 1.0f : 2.0f;
  return std::copysign(std::min(std::nearbyint(magnitude / step) * step, 6.0f), value);
}

// x -> dequantized e2m1 values, in place, groups of kFp4Group (the last may be shorter).
FULGURITE_HOST_DEVICE inline void round_to_fp4(std::span<float> x) {
  for (size_t first = 0; first < x.size(); first += kFp4Group) {
    const auto group = x.subspan(first, std::min<size_t>(kFp4Group, x.size() - first));
    const float amax = largest_magnitude(group), scale = fp4_scale(amax);
    for (float& value : group)
      value =
          std::isnan(amax) ? std::numeric_limits<float>::quiet_NaN() : nearest_e2m1(value / scale) * scale;
  }
}

}  // namespace fulgurite
