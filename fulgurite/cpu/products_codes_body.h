// Products with codes whose panels are packed piece by piece, part of kernels_body.h; the builds name their
// own packing and products. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#include "fulgurite/cpu/kernels.h"

namespace {

using fulgurite::cpu::CodeRows;

constexpr int64_t kMostWidth = 128;  // of products with codes

// The sums of panel j and those after it.
inline Sums from_panel(Sums c, int64_t j) {
  c.base += j * kPanel;
  if (c.ending == Ending::kPromote) c.lane_factors += j * kPanel;
  return c;
}

template <auto pack, auto pack_with_scales, auto multiply>
void products_e4m3(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t width, const float* scale,
                   const Sums& c) {
  alignas(64) uint32_t panel[kMostWidth / 2 * kPanel];
  for (int64_t l = 0; l < lanes; l += kPanel) {
    const int64_t count = lanes - l < kPanel ? lanes - l : kPanel;
    const uint8_t* const codes = b.base + l * b.stride;
    if (scale == nullptr)
      pack(codes, b.stride, count, width, panel);
    else
      pack_with_scales(codes, b.stride, count, width, scale + l, panel);
    multiply(a, (width + 1) / 2, {panel, 0, kPanel, 1}, from_panel(c, l / kPanel));
  }
}

template <auto widen, auto multiply>
void products_columns(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t rows, float scale,
                      const Sums& c) {
  constexpr int64_t kColumns = 64;  // at a time
  alignas(64) uint32_t panels[kMostWidth / 2 * kColumns];
  alignas(64) uint16_t first[kColumns] = {}, second[kColumns] = {};
  for (int64_t l = 0; l < lanes; l += kColumns) {
    const int64_t count = lanes - l < kColumns ? lanes - l : kColumns;
    for (int64_t r = 0; r < rows; r += 2) {
      widen(b.base + r * b.stride + l, count, scale, first);
      if (r + 1 < rows)
        widen(b.base + (r + 1) * b.stride + l, count, scale, second);
      else
        std::memset(second, 0, sizeof second);
      interleave(first, second, kColumns, panels + r / 2 * kColumns);
    }
    const int64_t used = (count + kPanel - 1) / kPanel;
    multiply(a, (rows + 1) / 2, {panels, kPanel, kColumns, used}, from_panel(c, l / kPanel));
  }
}

}  // namespace
