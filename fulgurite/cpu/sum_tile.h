#pragma once
// How the products of narrow operands share the work: rows of a weight (lanes of sums) are taken some panels
// of 16 at a time, a tile; a tile's sums of all tokens of a chunk stay in the second-level cache, and a group
// of its columns, packed, in the first.

#include <algorithm>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/workspace.h"

namespace fulgurite::cpu {

constexpr int64_t kPanelLanes = 16;
constexpr int64_t kMostLanes = 128;     // of a tile
constexpr int64_t kGroupColumns = 128;  // that are packed at once, at most

// The lanes of a tile, and the stride of its sums. Few tokens take more, so that enough sums are in flight.
inline int64_t tile_lanes(int64_t tokens) { return tokens <= 4 ? kMostLanes : kMostLanes / 2; }

// So many tokens meet codes in registers: Kernels::dots, products_columns.
constexpr int64_t kFewTokens = 8;

inline const uint8_t* codes_at(const BlockScaled& blocks, int64_t row, int64_t column) {
  return reinterpret_cast<const uint8_t*>(&blocks.data(row, column));
}

// One thread's scratch memory: packed panels, or rows as bf16; sums [tokens][tile_lanes(tokens)]; the four
// partial sums of each.
struct SumTile {
  uint32_t* panels = nullptr;
  float* sums = nullptr;
  float* quarters = nullptr;
};

constexpr int64_t kPanelWords = kMostLanes * kGroupColumns / 2;

// Those of all threads, for at most so many tokens.
struct SumTiles {
  SumTile first;
  int64_t floats = 0;  // of one thread's sums
  SumTile operator[](int thread) const {
    return {first.panels + thread * kPanelWords, first.sums + thread * floats,
            first.quarters + thread * floats * 4};
  }
};
inline SumTiles cut_sum_tiles(Cutter& cutter, int threads, int64_t tokens) {
  const int64_t floats = std::max(tokens * tile_lanes(tokens), 4 * kMostLanes);
  SumTile first;
  first.panels = cutter.take<uint32_t>(threads * kPanelWords);
  first.sums = cutter.take<float>(threads * floats);
  first.quarters = cutter.take<float>(threads * floats * 4);
  return {first, floats};
}

// Rows [first, first + count) of a weight; of a tile, count <= tile_lanes(tokens).
struct RowRange {
  int64_t first = 0;
  int64_t count = 0;
  int64_t next = 0;  // how many rows below `first` the range begins that is read after this one; 0: count

  int64_t step() const { return next != 0 ? next : count; }
};

// The lane, or the calling thread alone where waking the others costs more than the work does: reading twelve
// weights a cycle, multiplying 24, against one microsecond.
inline Lane lane_worth(const Lane& lane, int64_t tokens, int64_t rows, int64_t columns) {
  const int64_t cycles = rows * columns / 12 + tokens * rows * columns / 24;
  return cycles >= 10000 ? lane : Lane{};
}

inline int64_t panels_of(int64_t rows) { return (rows + kPanelLanes - 1) / kPanelLanes; }

// Calls body(range) for tiles that make up panels [begin, end) of a weight of `rows` rows.
template <class Body>
void for_tiles_of_panels(int64_t begin, int64_t end, int64_t rows, int64_t tokens, const Body& body) {
  const int64_t last = std::min(rows, end * kPanelLanes), step = tile_lanes(tokens);
  for (int64_t first = begin * kPanelLanes; first < last; first += step)
    body(RowRange{first, std::min(step, last - first)});
}

// Calls body(range, thread) for tiles that make up all rows, shared among the threads by panels. Nothing may
// depend on which tile a row is in.
template <class Body>
void share_tiles(const Lane& lane, int64_t tokens, int64_t rows, int64_t columns, const Body& body) {
  parallel_for(lane_worth(lane, tokens, rows, columns), panels_of(rows),
               [&](int64_t begin, int64_t end, int thread) {
                 for_tiles_of_panels(begin, end, rows, tokens, [&](RowRange range) { body(range, thread); });
               });
}

// y(t, first_column + l) = the sums of token t, lane l, rounded to y's type; for the tokens of y.
void store_sums(const Kernels& kernels, const float* sums, int64_t lanes, const Tensor<2>& y,
                int64_t first_column);

}  // namespace fulgurite::cpu
