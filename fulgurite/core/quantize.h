#pragma once
// The quantizers of docs/numerics.md: one scale for a group of values, and its codes.
//
//   e4m3   scale = max(amax, 1e-4) * fp32(1/448), or / 448, or rounded up to a power of two, which is the
//          same of both; codes = e4m3(clamp(x / scale, +-448)); a group with NaN or infinity: NaN codes and scale 1
//   e2m1   (fp4) groups of 32: scale = max(amax, 6 * 2^-126) * fp32(1/6), rounded up to a power of two;
//          what is kept are the dequantized values, each exact in bf16; NaN or infinity: all NaN
//
// Source     DeepSeek-V3.2-Exp inference/kernel.py, act_quant; docs/numerics.md.

#include <cstdint>
#include <span>

#include "fulgurite/core/fp8.h"
#include "fulgurite/core/numerics.h"
#include "fulgurite/core/scale_rounding.h"

namespace fulgurite {

// Of the codes that are made as a session runs: of activations, and of index q and keys.
ScaleRounding activation_rounding(const Numerics& numerics);
ScaleRounding index_rounding(const Numerics& numerics);

inline constexpr int64_t kActivationGroup = 128;  // columns that share an activation's scale
inline constexpr int64_t kFp4Group = 32;

// The smallest power of two that is >= value; value > 0 and finite.
float round_up_to_pow2(float value);

// The e4m3 scale of a group whose largest magnitude is amax (finite).
float e4m3_scale(float amax, ScaleRounding rounding);

// Codes of one group; returns its scale.
float quantize_e4m3(std::span<const float> x, ScaleRounding rounding, e4m3* codes);

// x -> dequantized e2m1 values, in place, groups of kFp4Group (the last may be shorter).
void round_to_fp4(std::span<float> x);

}  // namespace fulgurite
