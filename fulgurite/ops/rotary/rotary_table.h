#pragma once
// The angles of rotary embedding, made once on the host.
//
//   f_i   = base^(-2i/dim); with YaRN f_i (1 - ramp_i) + f_i / factor * ramp_i,
//           ramp_i = clamp((i - low) / (high - low), 0, 1), the divisor 0.001 where low = high,
//           low = floor(c(beta_fast)), high = ceil(c(beta_slow)), both clamped to [0, dim - 1],
//           c(rotations) = dim ln(original_positions / (2 pi rotations)) / (2 ln base)
//   angle = fp32(fp32(p) * fp32(f_i))
//
// Rounding  frequencies in double, rounded to fp32 once; sine and cosine are the double functions rounded to
//           fp32. The tables are not multiplied by mscale; the softmax scale carries it.
// Source    DeepSeek-V3.2-Exp inference/model.py, precompute_freqs_cis; arXiv:2309.00071 (YaRN). The source
//           clamps low from below and high from above only; that is the same unless original_positions is
//           below 2 pi beta_slow or so large that low >= dim.

#include <cstdint>
#include <optional>

#include "fulgurite/core/view.h"

namespace fulgurite::rotary {

struct Yarn {
  double factor = 1.0;
  double original_positions = 0.0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
};

struct Frequencies {
  double base = 10000.0;
  int64_t dim = 64;
  std::optional<Yarn> yarn;
};

// f_i, i < dim / 2, rounded to fp32.
float frequency(const Frequencies& frequencies, int64_t i);

// Fills cosine and sine [positions, dim / 2].
void fill_table(const Frequencies& frequencies, View<float, 2> cosine, View<float, 2> sine);

}  // namespace fulgurite::rotary
