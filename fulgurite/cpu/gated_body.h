// Gated MLPs: the gate, and the sum over experts. Part of kernels_body.h. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

namespace {

// g / (1 + exp(-g)), with exponentials of what is not positive alone: g * exp(g) / (1 + exp(g)) below zero.
inline Floats silu(Floats g) {
  const Floats magnitude = same_bits<Floats>(same_bits<Words>(g) & 0x7FFFFFFFu);
  const Floats e = exponential_not_positive(-magnitude);
  const Floats numerator = g < 0.0f ? g * e : g;
  return numerator / (1.0f + e);
}

void silu_mul(const float* gate, const float* up, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, silu(load(gate + i)) * load(up + i));
  if (i == count) return;
  float g[kWidth] = {}, u[kWidth] = {};
  const size_t bytes = static_cast<size_t>(count - i) * sizeof(float);
  std::memcpy(g, gate + i, bytes);
  std::memcpy(u, up + i, bytes);
  store(g, silu(load(g)) * load(u));
  std::memcpy(out + i, g, bytes);
}

// NaN passes.
inline Floats at_most(Floats values, Floats limit) { return values > limit ? limit : values; }

void silu_mul_limited(const float* gate, const float* up, int64_t count, float limit, float factor,
                      float* out) {
  const Floats high = Floats{} + limit, low = -high;
  const auto gated = [&](Floats g, Floats u) {
    const Floats some = at_most(u, high);
    return (silu(at_most(g, high)) * (some < low ? low : some)) * factor;
  };
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, gated(load(gate + i), load(up + i)));
  if (i == count) return;
  float g[kWidth] = {}, u[kWidth] = {};
  const size_t bytes = static_cast<size_t>(count - i) * sizeof(float);
  std::memcpy(g, gate + i, bytes);
  std::memcpy(u, up + i, bytes);
  store(g, gated(load(g), load(u)));
  std::memcpy(out + i, g, bytes);
}

void add_scaled(const float* __restrict values, float factor, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = __builtin_fmaf(factor, values[i], out[i]);
}

}  // namespace
