// Dot products of rows, part of kernels_body.h. Four rows of a weight lie side by side in sixteen lanes, four
// lanes each along the terms (a quad): so a row is read as it is stored, 16 bytes at a time, and a group's sums
// are promoted once for 32 of its columns in flight. Tiles of rows do not change the order in which a lane
// meets its products. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#include "fulgurite/cpu/kernels.h"

namespace {

using fulgurite::cpu::GroupedRows;
using fulgurite::cpu::QuarterSums;
using fulgurite::cpu::WeightRows;

constexpr int64_t kDotGroup = 128;  // columns
constexpr int64_t kQuad = 4;        // rows
constexpr int64_t kQuadStep = 8;    // columns of each row that are met at once
constexpr int64_t kQuadGroup = kQuad * kDotGroup;

inline const uint8_t* row_of(const WeightRows& w, int64_t j) {
  return w.base + (j < w.count ? j : w.count - 1) * w.stride;  // what fills the last quad is of no account
}

// One group of one quad.
inline void pack_quad(const WeightRows& w, int64_t j, int64_t g, uint16_t* quad) {
  uint16_t values[kDotGroup];
  for (int64_t l = 0; l < kQuad; ++l) {
    const uint8_t* const row = row_of(w, j + l);
    if (w.coded)
      widen_e4m3(row + g * kDotGroup, kDotGroup, w.scales == nullptr ? 1.0f : w.scales[g], values);
    else
      std::memcpy(values, row + 2 * g * kDotGroup, sizeof values);
    for (int64_t k = 0; k < kDotGroup; k += kQuadStep)
      std::memcpy(quad + k * kQuad + l * kQuadStep, values + k, kQuadStep * sizeof(uint16_t));
  }
}

// Eight columns of a row of x for each row of a register.
inline PairParts everywhere(const uint16_t* at) {
  Pairs pairs;
  for (int64_t lane = 0; lane < kWidth; lane += kQuad)
    std::memcpy(reinterpret_cast<char*>(&pairs) + lane * 4, at, kQuadStep * sizeof(uint16_t));
  return PairParts(pairs);
}

inline PairParts pairs_at(const uint16_t* at) {
  Pairs pairs;
  std::memcpy(&pairs, at, sizeof pairs);
  return PairParts(pairs);
}

// A factor for each row of a register.
inline Floats of_rows(const float* factors) {
  Floats lanes;
  for (int l = 0; l < kWidth; ++l) lanes[l] = factors[l / kQuad];
  return lanes;
}

// Group g of R rows of x from i on with that of the rows [j, j + 4), registers of lanes one after the other.
template <int R>
inline void dots_tile(const GroupedRows& x, int64_t i, const uint16_t* quad, int64_t j, int64_t g,
                      const QuarterSums& c) {
  const uint16_t* const left = x.base + g * x.group_stride + i * x.row_stride;
  const bool promotes = c.x_factors != nullptr;
  for (int64_t lane = 0; lane < kLanes; lane += kWidth) {
    float* const base = c.base + 16 * (j / kQuad * c.stride + i) + lane;
    Floats sum[R];
    for (int r = 0; r < R; ++r) sum[r] = promotes ? Floats{} : load(base + 16 * r);
    for (int64_t k = 0; k < kDotGroup; k += kQuadStep) {
      const PairParts weight = pairs_at(quad + k * kQuad + 2 * lane);
      for (int r = 0; r < R; ++r) {
        const PairParts row = everywhere(left + r * x.row_stride + k);
        sum[r] = add_product(row.second, weight.second, sum[r]);
        sum[r] = add_product(row.first, weight.first, sum[r]);
      }
    }
    for (int r = 0; r < R; ++r) {
      if (promotes) {
        const Floats factor =
            of_rows(c.w_factors + g * c.w_stride + j + lane / kQuad) * c.x_factors[g * x.count + i + r];
        sum[r] = fused(sum[r], factor, load(base + 16 * r));
      }
      store(base + 16 * r, sum[r]);
    }
  }
}

// One group of one quad at a time is packed.
void dots(const GroupedRows& x, const WeightRows& w, int64_t groups, const QuarterSums& c) {
  alignas(64) uint16_t quad[kQuadGroup];
  for (int64_t j = 0; j < w.count; j += kQuad) {
    for (int64_t g = 0; g < groups; ++g) {
      pack_quad(w, j, g, quad);
      int64_t i = 0;
      for (; i + 4 <= x.count; i += 4) dots_tile<4>(x, i, quad, j, g, c);
      for (; i < x.count; ++i) dots_tile<1>(x, i, quad, j, g, c);
    }
  }
}

void sum_quarters(const float* quarters, int64_t stride, int64_t count, float* sums) {
  for (int64_t j = 0; j < count; ++j) {
    const float* const q = quarters + j / kQuad * stride + 4 * (j % kQuad);
    sums[j] = (q[0] + q[2]) + (q[1] + q[3]);
  }
}

}  // namespace
