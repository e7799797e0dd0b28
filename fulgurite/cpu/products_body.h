// `products` in vectors of kRegisterBytes, part of kernels_body.h. Register tiles of rows x panels do not
// change the order in which a sum meets its products. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#include "fulgurite/cpu/kernels.h"

namespace {

using fulgurite::cpu::Ending;
using fulgurite::cpu::PairRows;
using fulgurite::cpu::Panels;
using fulgurite::cpu::Sums;

typedef uint32_t Pairs __attribute__((vector_size(kRegisterBytes)));

// a * b + sum, one rounding, where a * b has at most 16 significant bits (bf16 x bf16).
inline Floats add_product(Floats a, Floats b, Floats sum) {
#if defined(__FMA__)
  return fused(a, b, sum);
#else
  // In double, where only sums of terms 2^29 and more apart are rounded: nowhere near a tie of fp32.
  typedef double Doubles __attribute__((vector_size(2 * kRegisterBytes)));
  const auto wide = [](Floats value) { return __builtin_convertvector(value, Doubles); };
  return __builtin_convertvector(wide(a) * wide(b) + wide(sum), Floats);
#endif
}

// Registers of first and of second elements.
struct PairParts {
  Floats first, second;
  explicit PairParts(Pairs pairs)
      : first(reinterpret_cast<Floats>(pairs << 16)), second(reinterpret_cast<Floats>(pairs & 0xFFFF0000u)) {}
};

inline PairParts pair_everywhere(const uint16_t* at) {
  uint32_t pair;
  std::memcpy(&pair, at, sizeof pair);
  return PairParts(Pairs{} + pair);
}

inline PairParts lanes_of_pairs(const uint32_t* at) {
  Pairs pairs;
  std::memcpy(&pairs, at, sizeof pairs);
  return PairParts(pairs);
}

// R rows x B registers of lanes: rows from i on, lanes [lane, lane + B * kWidth) of panel j.
template <int R, int B>
inline void products_tile(const PairRows& a, int64_t i, int64_t pairs, const Panels& b, int64_t j,
                          int64_t lane, const Sums& c) {
  float* const out = c.base + i * c.stride + j * kPanel + lane;
  const int64_t stride = c.stride, row_stride = a.row_stride, pair_stride = a.pair_stride;
  const int64_t panel_step = b.pair_stride;
  Floats sum[R][B] = {};
  if (c.ending == Ending::kAccumulate)
    for (int r = 0; r < R; ++r)
      for (int n = 0; n < B; ++n) sum[r][n] = load(out + r * stride + n * kWidth);
  const uint16_t* left = a.base + i * row_stride;
  const uint32_t* right = b.base + j * b.panel_stride + lane;
  for (int64_t p = 0; p < pairs; ++p) {
    for (int n = 0; n < B; ++n) {
      const PairParts lanes = lanes_of_pairs(right + n * kWidth);
      for (int r = 0; r < R; ++r) {
        const PairParts row = pair_everywhere(left + r * row_stride);
        sum[r][n] = add_product(row.second, lanes.second, sum[r][n]);
        sum[r][n] = add_product(row.first, lanes.first, sum[r][n]);
      }
    }
    left += pair_stride;
    right += panel_step;
  }
  for (int r = 0; r < R; ++r) {
    for (int n = 0; n < B; ++n) {
      float* const at = out + r * stride + n * kWidth;
      if (c.ending == Ending::kPromote) {
        const float row_factor = c.row_factors[(i + r) * c.row_factor_stride];
        const Floats lane_factors = load(c.lane_factors + j * kPanel + lane + n * kWidth);
        store(at, fused(sum[r][n], row_factor * lane_factors, load(at)));
      } else {
        store(at, sum[r][n]);
      }
    }
  }
}

void products(const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
  constexpr int B = kWidth == 4 ? 2 : kPanel / kWidth;  // registers of a tile
  constexpr int R = kWidth == 16 ? 8 : 4;               // enough sums to cover the latency
  for (int64_t j = 0; j < b.count; ++j) {
    for (int64_t lane = 0; lane < kPanel; lane += B * kWidth) {
      int64_t i = 0;
      for (; i + R <= a.count; i += R) products_tile<R, B>(a, i, pairs, b, j, lane, c);
      for (; i < a.count; ++i) products_tile<1, B>(a, i, pairs, b, j, lane, c);
    }
  }
}

void rescaled_products(const PairRows& a, int64_t pairs, int64_t part, const float* factors,
                       int64_t factor_stride, const Panels& b, const Sums& c) {
  if (c.ending == Ending::kStore)
    for (int64_t i = 0; i < a.count; ++i)
      std::memset(c.base + i * c.stride, 0, static_cast<size_t>(b.count * kPanel) * sizeof(float));
  Sums sums = c;
  sums.ending = Ending::kAccumulate;
  for (int64_t first = 0; first < pairs; first += part, factors += factor_stride) {
    for (int64_t i = 0; i < a.count; ++i)
      for (int64_t l = 0; l < b.count * kPanel; ++l) c.base[i * c.stride + l] *= factors[i];
    const PairRows rows{a.base + first * a.pair_stride, a.row_stride, a.pair_stride, a.count};
    const Panels panels{b.base + first * b.pair_stride, b.panel_stride, b.pair_stride, b.count};
    products(rows, pairs - first < part ? pairs - first : part, panels, sums);
  }
}

}  // namespace
