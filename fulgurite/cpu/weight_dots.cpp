#include "fulgurite/cpu/weight_dots.h"

#include <algorithm>
#include <cstring>

namespace fulgurite::cpu {
namespace {

constexpr int64_t kGroup = kActivationGroup;
constexpr int64_t kQuad = 4;              // rows whose sums lie together
constexpr int64_t kMostChunkGroups = 64;  // of one call

// Groups that are met at once: of few tokens whole rows, whose long streams the processor itself reads ahead
// (what it is asked for line by line is limited by the misses that a core may have in flight).
int64_t chunk_groups(int64_t tokens) { return tokens <= kFewTokens ? kMostChunkGroups : 4; }

// Some columns of some rows: whole groups, or what there is of the last.
struct Part {
  RowRange rows;
  int64_t column = 0;
  int64_t width = 0;

  int64_t groups() const { return (width + kGroup - 1) / kGroup; }
};

struct Operands {
  const Kernels& kernels;
  const OperandRows& x;
  const PreparedMatrix& weight;
  Promotion promotion;

  const BlockScaled* blocks() const { return std::get_if<BlockScaled>(&weight.as); }
  const View<const bf16, 2>* half() const { return std::get_if<View<const bf16, 2>>(&weight.as); }
  bool are_scaled() const { return blocks() != nullptr && promotion == Promotion::kNone; }
  GroupedRows rows_of_x(const Part& part) const {
    return {x.pairs(part.column).base, x.rows * kGroup, kGroup, x.rows};
  }
};

// --- rows as they are stored ---

// Whole groups; of codes with scales of their own, rows that blocks divide between quads.
bool is_read_in_place(const Operands& of, const Part& part) {
  if (part.width % kGroup != 0) return false;
  if (!of.are_scaled()) return of.half() != nullptr || of.blocks() != nullptr;
  const int64_t block = of.blocks()->block.rows;
  return (block % kQuad == 0 && part.rows.first % kQuad == 0) || block >= of.weight.out;
}

// What is read after a part: the rows' next columns, or the next rows. Null beyond the weight.
template <class T>
const uint8_t* next_of(const View<const T, 2>& data, const Part& part) {
  const int64_t next = part.rows.first + part.rows.step();
  if (part.column + part.width < data.extent[1])
    return reinterpret_cast<const uint8_t*>(&data(part.rows.first, part.column + part.width));
  return next + part.rows.count <= data.extent[0] ? reinterpret_cast<const uint8_t*>(&data(next, 0))
                                                  : nullptr;
}

template <class T>
WeightRows rows_in_place(const View<const T, 2>& data, const Part& part) {
  WeightRows rows;
  rows.base = reinterpret_cast<const uint8_t*>(&data(part.rows.first, part.column));
  rows.stride = data.stride[0] * static_cast<int64_t>(sizeof(T));
  rows.count = part.rows.count;
  rows.coded = sizeof(T) == 1;
  rows.next = next_of(data, part);
  return rows;
}

// Codes with scales: rows of the same block in one call.
void add_scaled(const Operands& of, const Part& all, const QuarterSums& sums) {
  const BlockScaled& blocks = *of.blocks();
  const int64_t first = all.rows.first, end = first + all.rows.count, block = blocks.block.rows;
  float scales[kMostChunkGroups];
  Part part = all;
  for (int64_t row = first; row < end; row += part.rows.count) {
    part.rows = {row, std::min(end - row, block - row % block),
                 row + block < end ? 0 : first + all.rows.step() - row};
    for (int64_t g = 0; g < all.groups(); ++g) scales[g] = blocks.scale_at(row, all.column + g * kGroup);
    WeightRows rows = rows_in_place(blocks.data, part);
    rows.scales = scales;
    QuarterSums own = sums;
    own.base += 16 * ((row - first) / kQuad * sums.stride);
    of.kernels.dots(of.rows_of_x(part), rows, part.groups(), own);
  }
}

void add_in_place(const Operands& of, const Part& part, const QuarterSums& sums) {
  if (of.are_scaled()) return add_scaled(of, part, sums);
  const WeightRows rows =
      of.half() != nullptr ? rows_in_place(*of.half(), part) : rows_in_place(of.blocks()->data, part);
  of.kernels.dots(of.rows_of_x(part), rows, part.groups(), sums);
}

// --- rows copied as bf16 ---

void copy_row(const Operands& of, const Part& part, int64_t row, uint16_t* out) {
  if (const auto* const half = of.half()) {
    std::memcpy(out, &(*half)(row, part.column), static_cast<size_t>(part.width) * sizeof(uint16_t));
  } else if (const auto* const f32 = std::get_if<View<const float, 2>>(&of.weight.as)) {
    of.kernels.narrow_bf16(&(*f32)(row, part.column), part.width, out);
  } else {
    for (int64_t done = 0; done < part.width; done += kGroup) {
      const int64_t column = part.column + done, width = std::min(kGroup, part.width - done);
      const float scale = of.are_scaled() ? of.blocks()->scale_at(row, column) : 1.0f;
      of.kernels.widen_e4m3(codes_at(*of.blocks(), row, column), width, scale, out + done);
    }
  }
}

// As many rows at a time as `copy` holds.
void add_copied(const Operands& of, const Part& part, QuarterSums sums, uint16_t* copy) {
  const int64_t stride = part.groups() * kGroup, end = part.rows.first + part.rows.count;
  const int64_t most = kMostLanes * kGroupColumns / stride / kQuad * kQuad;
  for (int64_t row = part.rows.first; row < end; row += most) {
    const int64_t count = std::min(most, end - row);
    for (int64_t j = 0; j < count; ++j) {
      copy_row(of, part, row + j, copy + j * stride);
      std::fill(copy + j * stride + part.width, copy + (j + 1) * stride, uint16_t{0});
    }
    const WeightRows rows{reinterpret_cast<const uint8_t*>(copy), stride * 2, count};
    of.kernels.dots(of.rows_of_x(part), rows, part.groups(), sums);
    sums.base += 16 * (most / kQuad * sums.stride);
    if (sums.w_factors != nullptr) sums.w_factors += most;
  }
}

// --- factors ---

// [groups][kMostLanes] of a part's rows.
struct WeightFactors {
  float values[kMostChunkGroups * kMostLanes];

  void fill(const BlockScaled& blocks, const Part& part) {
    for (int64_t g = 0; g < part.groups(); ++g)
      for (int64_t j = 0; j < part.rows.count;) {
        const int64_t row = part.rows.first + j, block = blocks.block.rows;
        const int64_t end = std::min(part.rows.count, j + block - row % block);
        std::fill(values + g * kMostLanes + j, values + g * kMostLanes + end,
                  blocks.scale_at(row, part.column + g * kGroup));
        j = end;
      }
  }
};

void add(const Operands& of, const Part& part, const SumTile& tile) {
  WeightFactors factors;
  QuarterSums sums{tile.quarters, of.x.rows};
  if (of.promotion == Promotion::kPerGroup) {
    factors.fill(*of.blocks(), part);
    sums = {tile.quarters, of.x.rows, of.x.scales_at(part.column), factors.values, kMostLanes};
  }
  if (is_read_in_place(of, part))
    add_in_place(of, part, sums);
  else
    add_copied(of, part, sums, reinterpret_cast<uint16_t*>(tile.panels));
}

}  // namespace

bool is_met_along_rows(const Kernels& kernels, const PreparedMatrix& weight) {
  const auto* const blocks = std::get_if<BlockScaled>(&weight.as);
  return !kernels.prefers_panels &&
         (blocks == nullptr || blocks->block.columns % kGroup == 0 || blocks->block.columns >= weight.in);
}

void weight_dots(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
                 Promotion promotion, const SumTile& tile) {
  const Operands of{kernels, x, weight, promotion};
  const int64_t whole = weight.in / kGroup * kGroup, chunk = chunk_groups(x.rows) * kGroup;
  const int64_t quads = (rows.count + kQuad - 1) / kQuad;
  std::fill_n(tile.quarters, quads * x.rows * 16, 0.0f);
  for (int64_t column = 0; column < whole; column += chunk)
    add(of, {rows, column, std::min(chunk, whole - column)}, tile);
  if (whole < weight.in) add(of, {rows, whole, weight.in - whole}, tile);
  for (int64_t t = 0; t < x.rows; ++t)
    kernels.sum_quarters(tile.quarters + 16 * t, 16 * x.rows, rows.count, tile.sums + t * tile_lanes(x.rows));
}

}  // namespace fulgurite::cpu
