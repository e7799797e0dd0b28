#pragma once
// exp in fp32, the same bits on every machine. Internal linkage: sources built for different machines have
// their own.

#include <cstdint>

namespace {

// exp(x) for x <= 0, within 1.5 ulp (2^-149 where the result is denormal); a NaN stays NaN. x = n ln 2 + r,
// |r| <= ln 2 / 2; a polynomial of exp(r); times 2^n in two steps, so that the result underflows gradually.
// Constants: Cephes expf (S. Moshier).
inline float exponential(float x) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, which stands in the low bits
  x = x < -104.0f ? -104.0f : x;       // exp(-104) rounds to zero
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  float sum = 1.9875691500e-4f;
  sum = sum * r + 1.3981999507e-3f;
  sum = sum * r + 8.3334519073e-3f;
  sum = sum * r + 4.1665795894e-2f;
  sum = sum * r + 1.6666665459e-1f;
  sum = sum * r + 5.0000001201e-1f;
  sum = (sum * (r * r) + r) + 1.0f;
  const uint32_t power = __builtin_bit_cast(uint32_t, shifted) - __builtin_bit_cast(uint32_t, kRound);
  const uint32_t half = static_cast<uint32_t>(static_cast<int32_t>(power) >> 1);
  const float first = __builtin_bit_cast(float, (half + 127u) << 23);
  const float second = __builtin_bit_cast(float, (power - half + 127u) << 23);
  return (sum * first) * second;
}

}  // namespace
