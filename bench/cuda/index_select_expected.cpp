#include "bench/cuda/index_select_expected.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "fulgurite/core/tensor_core.h"

namespace fulgurite::index_select {
namespace {

static_assert(sizeof(MmaFactor) == sizeof(uint32_t));

float value_of(uint8_t code) {
  const int exponent = code >> 3 & 15, fraction = code & 7;
  const float sign = (code & 0x80) != 0 ? -1.0f : 1.0f;
  if (exponent == 15 && fraction == 7) return std::numeric_limits<float>::quiet_NaN();
  const float significand = exponent == 0 ? static_cast<float>(fraction) : static_cast<float>(8 + fraction);
  return sign * std::ldexp(significand, std::max(exponent, 1) - 10);
}

}  // namespace

uint32_t mma_factor_of(uint8_t code) {
  const MmaFactor factor = mma_factor(MmaType::kE4m3, value_of(code));
  uint32_t bits;
  std::memcpy(&bits, &factor, sizeof bits);
  return bits;
}

float expected_logit(const uint32_t* q, const float* weights, int heads, const uint32_t* key, float scale) {
  MmaFactor k[128], row[128];
  std::memcpy(k, key, sizeof k);
  float part[4] = {};
  for (int h = 0; h < heads; ++h) {
    std::memcpy(row, q + h * 128, sizeof row);
    const float dot = mma_sum(MmaType::kE4m3, row, k);
    float& sum = part[h / 2 % 4];
    sum = std::fma(weights[h], dot < 0.0f ? 0.0f : dot, sum);
  }
  return scale * ((part[0] + part[1]) + (part[2] + part[3]));
}

}  // namespace fulgurite::index_select
