#include "fulgurite/cpu/fp4_matmul.h"

#include <algorithm>

#include "fulgurite/core/assert.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kGroup = kActivationGroup;
constexpr int64_t kGroupBytes = kGroup / 2;
constexpr int64_t kQuad = 4;  // rows whose sums lie together
// Groups that many tokens meet at once, so that they stay in the caches.
constexpr int64_t kChunkGroups = 16;
constexpr int64_t kBlock = 32;  // columns whose sums are promoted at once

// What both formats are: rows of codes, and of bytes of scales.
struct Fp4 {
  const uint8_t* codes;
  int64_t stride;
  const uint8_t* scales;
  int64_t scale_stride;
  bool halves;  // a scale for 16 columns, not 32
  float global;

  int64_t scale_bytes(int64_t columns) const { return columns / (halves ? 16 : 32); }
  E2m1Rows rows(RowRange range, int64_t column) const {
    E2m1Rows some;
    some.base = codes + range.first * stride + column / 2;
    some.stride = stride;
    some.count = range.count;
    some.scales = scales + range.first * scale_stride + scale_bytes(column);
    some.scale_stride = scale_stride;
    some.halves = halves;
    some.global = global;
    return some;
  }
};

Fp4 fp4_of(const PreparedMatrix& weight) {
  if (const auto* const mx = std::get_if<Mxfp4>(&weight.as))
    return {reinterpret_cast<const uint8_t*>(mx->data.data),
            mx->data.stride[0],
            reinterpret_cast<const uint8_t*>(mx->scale.data),
            mx->scale.stride[0],
            false,
            1.0f};
  const Nvfp4& nv = std::get<Nvfp4>(weight.as);
  return {reinterpret_cast<const uint8_t*>(nv.data.data),
          nv.data.stride[0],
          reinterpret_cast<const uint8_t*>(nv.scale.data),
          nv.scale.stride[0],
          true,
          nv.global(0)};
}

// The last columns of some rows, which are no whole group, with zeros behind them.
struct LastGroup {
  uint8_t codes[kMostLanes * kGroupBytes] = {};
  uint8_t scales[kMostLanes * kGroup / 16] = {};

  E2m1Rows copy(const Fp4& weight, RowRange range, int64_t column, int64_t width) {
    E2m1Rows rows = weight.rows(range, column);
    const int64_t scale_stride = weight.scale_bytes(kGroup);
    for (int64_t j = 0; j < rows.count; ++j) {
      std::copy_n(rows.base + j * rows.stride, width / 2, codes + j * kGroupBytes);
      std::copy_n(rows.scales + j * rows.scale_stride, weight.scale_bytes(width), scales + j * scale_stride);
    }
    rows.base = codes;
    rows.stride = kGroupBytes;
    rows.scales = scales;
    rows.scale_stride = scale_stride;
    return rows;
  }
};

struct Operands {
  const Kernels& kernels;
  const OperandRows& x;
  const SumTile& tile;

  void meet(const E2m1Rows& rows, int64_t column, int64_t groups) const {
    const GroupedRows left{x.pairs(column).base, x.rows * kGroup, kGroup, x.rows};
    kernels.dots_e2m1(left, rows, groups, {tile.quarters, x.rows, x.scales_at(column)});
  }
};

// What is read after rows of `rows.step()`: the rows below, if there are so many.
const uint8_t* next_of(const Fp4& fp4, const PreparedMatrix& weight, RowRange rows, int64_t column) {
  const int64_t next = rows.first + rows.step();
  return next + rows.count <= weight.out ? fp4.codes + next * fp4.stride + column / 2 : nullptr;
}

void along_rows(const Operands& of, const PreparedMatrix& weight, RowRange rows) {
  const Fp4 fp4 = fp4_of(weight);
  const int64_t whole = weight.in / kGroup * kGroup, tokens = of.x.rows;
  const int64_t chunk = tokens <= kFewTokens ? weight.in : kChunkGroups * kGroup;
  std::fill_n(of.tile.quarters, (rows.count + kQuad - 1) / kQuad * tokens * 16, 0.0f);
  for (int64_t column = 0; column < whole; column += chunk) {
    const int64_t width = std::min(chunk, whole - column);
    E2m1Rows some = fp4.rows(rows, column);
    some.next = next_of(fp4, weight, rows, column);
    of.meet(some, column, width / kGroup);
  }
  if (whole < weight.in) {
    LastGroup last;
    of.meet(last.copy(fp4, rows, whole, weight.in - whole), whole, 1);
  }
  for (int64_t t = 0; t < tokens; ++t)
    of.kernels.sum_quarters(of.tile.quarters + 16 * t, 16 * tokens, rows.count,
                            of.tile.sums + t * tile_lanes(tokens));
}

// --- panels: MXFP4 alone, whose groups of columns are whole blocks in the order of fp4 ---

float power_of(uint8_t exponent) { return to_float(e8m0{exponent}); }

void by_panels(const Operands& of, const PreparedMatrix& weight, RowRange rows) {
  const Fp4 fp4 = fp4_of(weight);
  const int64_t stride = tile_lanes(of.x.rows), panels = panels_of(rows.count);
  uint16_t widened[kPanelLanes * kBlock];
  float factors[kMostLanes] = {};
  std::fill_n(of.tile.sums, of.x.rows * stride, 0.0f);
  for (int64_t column = 0; column < weight.in; column += kBlock) {
    const E2m1Rows some = fp4.rows(rows, column);
    for (int64_t l = 0; l < rows.count; ++l) factors[l] = power_of(some.scales[l * some.scale_stride]);
    for (int64_t j = 0; j < panels; ++j) {
      const int64_t first = j * kPanelLanes, lanes = std::min(kPanelLanes, rows.count - first);
      for (int64_t l = 0; l < lanes; ++l)
        of.kernels.widen_e2m1(some.base + (first + l) * some.stride, 1, widened + l * kBlock);
      of.kernels.pack_bf16(widened, kBlock, lanes, kBlock, of.tile.panels + j * kBlock / 2 * kPanelLanes);
    }
    of.kernels.products(of.x.pairs(column), kBlock / 2,
                        {of.tile.panels, kBlock / 2 * kPanelLanes, kPanelLanes, panels},
                        {of.tile.sums, stride, Ending::kPromote, of.x.scales_at(column), 1, factors});
  }
}

}  // namespace

void fp4_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
              const SumTile& tile) {
  FULGURITE_ASSERT(x.order == ColumnOrder::kFp4, "activations in natural order");
  const Operands of{kernels, x, tile};
  if (kernels.prefers_panels && std::holds_alternative<Mxfp4>(weight.as))
    by_panels(of, weight, rows);
  else
    along_rows(of, weight, rows);
}

}  // namespace fulgurite::cpu
