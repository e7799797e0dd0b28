// `products` by tiles: TDPBF16PS takes 16 rows x 16 pairs of A and 16 pairs x 16 lanes of B. The loop is a
// template over Tiles, the registers and their instructions, so that it is tested where a machine has none.
// No #pragma once: it is a body.

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fulgurite/cpu/kernels.h"

namespace {
namespace pairs_in_tiles {

using fulgurite::cpu::Ending;
using fulgurite::cpu::PairRows;
using fulgurite::cpu::Panels;
using fulgurite::cpu::Sums;

constexpr int64_t kRows = 16, kPairs = 16, kColumns = 16;  // of a tile
constexpr int64_t kRowBytes = 64;                          // 16 pairs, or 16 floats

// The eight registers: sums of 2 x 2 tiles, two of rows, two of panels.
constexpr int sums_register(int row_tile, int panel) { return 2 * row_tile + panel; }
constexpr int kRowsRegister = 4;
constexpr int kPanelsRegister = 6;

// What LDTILECFG reads.
struct alignas(64) Configuration {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  // Tiles of `first` and `second` rows of A; 16 pairs of B.
  Configuration(int64_t first, int64_t second) {
    const int64_t of[2] = {first, second};
    for (int i = 0; i < 2; ++i) {
      for (const int panel : {0, 1}) set(sums_register(i, panel), of[i]);
      set(kRowsRegister + i, of[i]);
      set(kPanelsRegister + i, kPairs);
    }
  }
  void set(int tile, int64_t count) {
    rows[tile] = static_cast<uint8_t>(count);
    row_bytes[tile] = count == 0 ? 0 : kRowBytes;
  }
};
static_assert(sizeof(Configuration) == 64);

// Rows of 64 bytes.
struct Place {
  const void* base;
  int64_t stride_bytes;
};

// The last pairs of a tile, padded with zeros.
struct PaddedPairs {
  alignas(64) uint32_t pairs[kRows * kPairs] = {};
  PaddedPairs(const void* base, int64_t stride_bytes, int64_t rows, int64_t bytes) {
    for (int64_t i = 0; i < rows; ++i)
      std::memcpy(pairs + i * kPairs, static_cast<const char*>(base) + i * stride_bytes,
                  static_cast<size_t>(bytes));
  }
  Place place() const { return {pairs, kRowBytes}; }
};

// R x P tiles of sums: rows [i, i + rows), panels [j, j + P).
template <int R, int P, class Tiles>
struct Block {
  Tiles& tiles;
  const PairRows& a;
  const Panels& b;
  const Sums& c;
  int64_t i, rows, j;

  int64_t rows_of(int r) const { return r + 1 < R ? kRows : rows - (R - 1) * kRows; }
  const uint16_t* left(int r, int64_t pair) const {
    return a.base + (i + r * kRows) * a.row_stride + 2 * pair;
  }
  const uint32_t* right(int p, int64_t pair) const {
    return b.base + (j + p) * b.panel_stride + pair * b.pair_stride;
  }
  float* out(int r, int p) const { return c.base + (i + r * kRows) * c.stride + (j + p) * kColumns; }

  void begin() const {
    const Place place[2][2] = {{{out(0, 0), c.stride * 4}, {out(0, P - 1), c.stride * 4}},
                               {{out(R - 1, 0), c.stride * 4}, {out(R - 1, P - 1), c.stride * 4}}};
    const auto start = [&](auto tile, const Place& from) {
      if (c.ending == Ending::kAccumulate)
        tiles.template load<tile>(from.base, from.stride_bytes);
      else
        tiles.template zero<tile>();
    };
    each_sum([&](auto r, auto p, auto tile) { start(tile, place[r][p]); });
  }

  void multiply(const Place* rows_at, const Place* panels_at) const {
    tiles.template load<kRowsRegister>(rows_at[0].base, rows_at[0].stride_bytes);
    tiles.template load<kPanelsRegister>(panels_at[0].base, panels_at[0].stride_bytes);
    if constexpr (R == 2) tiles.template load<kRowsRegister + 1>(rows_at[1].base, rows_at[1].stride_bytes);
    if constexpr (P == 2)
      tiles.template load<kPanelsRegister + 1>(panels_at[1].base, panels_at[1].stride_bytes);
    each_sum([&](auto r, auto p, auto tile) {
      tiles.template multiply<tile, kRowsRegister + r, kPanelsRegister + p>();
    });
  }

  void whole_tiles(int64_t pairs) const {
    for (int64_t pair = 0; pair + kPairs <= pairs; pair += kPairs) {
      Place rows_at[R], panels_at[P];
      for (int r = 0; r < R; ++r) rows_at[r] = {left(r, pair), a.row_stride * 2};
      for (int p = 0; p < P; ++p) panels_at[p] = {right(p, pair), b.pair_stride * 4};
      multiply(rows_at, panels_at);
    }
  }

  void last_pairs(int64_t pair, int64_t count) const {
    const auto rows_copy = [&](int r) {
      return PaddedPairs(left(r, pair), a.row_stride * 2, rows_of(r), count * 4);
    };
    const auto panel_copy = [&](int p) {
      return PaddedPairs(right(p, pair), b.pair_stride * 4, count, kRowBytes);
    };
    const PaddedPairs of_rows[2] = {rows_copy(0), rows_copy(R - 1)};
    const PaddedPairs of_panels[2] = {panel_copy(0), panel_copy(P - 1)};
    const Place rows_at[2] = {of_rows[0].place(), of_rows[1].place()};
    const Place panels_at[2] = {of_panels[0].place(), of_panels[1].place()};
    multiply(rows_at, panels_at);
  }

  void promote(int r, int p, const float* sums) const {
    const float* const lanes = c.lane_factors + (j + p) * kColumns;
    for (int64_t k = 0; k < rows_of(r); ++k) {
      const float row = c.row_factors[(i + r * kRows + k) * c.row_factor_stride];
      float* const at = out(r, p) + k * c.stride;
      for (int64_t l = 0; l < kColumns; ++l)
        at[l] = __builtin_fmaf(sums[k * kColumns + l], row * lanes[l], at[l]);
    }
  }

  void finish() const {
    each_sum([&](auto r, auto p, auto tile) {
      if (c.ending != Ending::kPromote) return tiles.template store<tile>(out(r, p), c.stride * 4);
      alignas(64) float sums[kRows * kColumns];
      tiles.template store<tile>(sums, kRowBytes);
      promote(r, p, sums);
    });
  }

  void run(int64_t pairs) const {
    begin();
    whole_tiles(pairs);
    const int64_t rest = pairs % kPairs;
    if (rest != 0) last_pairs(pairs - rest, rest);
    finish();
  }

  // body(r, p, register), constants all.
  template <class Body>
  static void each_sum(const Body& body) {
    const auto one = [&](auto r, auto p) {
      if constexpr (r < R && p < P) body(r, p, std::integral_constant<int, sums_register(r, p)>());
    };
    const std::integral_constant<int, 0> zero;
    const std::integral_constant<int, 1> second;
    one(zero, zero);
    one(zero, second);
    one(second, zero);
    one(second, second);
  }
};

template <int R, class Tiles>
void strip(Tiles& tiles, const PairRows& a, int64_t i, int64_t rows, int64_t pairs, const Panels& b,
           const Sums& c) {
  const int64_t last = rows - (R - 1) * kRows;
  tiles.configure(R == 2 ? Configuration(kRows, last) : Configuration(last, 0));
  int64_t j = 0;
  for (; j + 2 <= b.count; j += 2) Block<R, 2, Tiles>{tiles, a, b, c, i, rows, j}.run(pairs);
  if (j < b.count) Block<R, 1, Tiles>{tiles, a, b, c, i, rows, j}.run(pairs);
}

// a.pair_stride must be 2.
template <class Tiles>
void products(Tiles& tiles, const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
  if (a.count == 0 || b.count == 0) return;
  for (int64_t i = 0; i < a.count;) {
    const int64_t rest = a.count - i, rows = rest < 2 * kRows ? rest : 2 * kRows;
    if (rows > kRows)
      strip<2>(tiles, a, i, rows, pairs, b, c);
    else
      strip<1>(tiles, a, i, rows, pairs, b, c);
    i += rows;
  }
  tiles.release();
}

}  // namespace pairs_in_tiles
}  // namespace
