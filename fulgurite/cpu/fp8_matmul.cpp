#include "fulgurite/cpu/fp8_matmul.h"

#include "fulgurite/cpu/fp4_matmul.h"
#include "fulgurite/cpu/prefetch.h"
#include "fulgurite/cpu/weight_dots.h"

namespace fulgurite::cpu {
namespace {

// The weight's scale of each row of the tile in one group of columns; 0 for the lanes that pad the last
// panel.
void lane_factors(const BlockScaled& weight, RowRange rows, int64_t column, float* factors) {
  const int64_t block = weight.block.rows;
  for (int64_t l = 0; l < rows.count;) {
    const int64_t block_row = (rows.first + l) / block;
    const int64_t end = std::min(rows.count, (block_row + 1) * block - rows.first);
    std::fill(factors + l, factors + end, weight.scale_at(rows.first + l, column));
    l = end;
  }
  std::fill(factors + rows.count, factors + (rows.count + kPanelLanes - 1) / kPanelLanes * kPanelLanes, 0.0f);
}

}  // namespace

Support takes_fp8_weight(const MatrixFormat& weight) {
  if (is_fp4(weight) && weight.layout == ScaleLayout::kRowMajor) return std::nullopt;
  if (weight.form != MatrixForm::kE4M3Blocks)
    return Refusal{"weight in " + describe(weight) + ", takes e4m3 blocks or e2m1"};
  const int64_t columns = weight.block.columns;
  if (columns % 2 != 0 || (kActivationGroup % columns != 0 && columns % kActivationGroup != 0))
    return Refusal{"weight in " + describe(weight) +
                   ", takes blocks of an even number of columns that divides 128 or is a multiple of it"};
  return std::nullopt;
}

void fp8_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
              const SumTile& tile) {
  if (is_fp4(format_of(weight))) return fp4_sums(kernels, x, weight, rows, tile);
  if (is_met_along_rows(kernels, weight))
    return weight_dots(kernels, x, weight, rows, Promotion::kPerGroup, tile);
  const BlockScaled& blocks = std::get<BlockScaled>(weight.as);
  const int64_t group = std::min(kGroupColumns, blocks.block.columns), stride = tile_lanes(x.rows);
  const int64_t panels = (rows.count + kPanelLanes - 1) / kPanelLanes;
  const RowBytes bytes = bytes_of(blocks);
  std::fill_n(tile.sums, x.rows * stride, 0.0f);
  float factors[kMostLanes];
  for (int64_t column = 0; column < weight.in; column += group) {
    const int64_t width = std::min(group, weight.in - column), pairs = (width + 1) / 2;
    lane_factors(blocks, rows, column, factors);
    for (int64_t j = 0; j < panels; ++j) {
      const int64_t row = rows.first + j * kPanelLanes;
      const int64_t lanes = std::min(kPanelLanes, rows.first + rows.count - row);
      prefetch_ahead(bytes, row, lanes, rows.step(), column, width);
      kernels.pack_e4m3(codes_at(blocks, row, column), blocks.data.stride[0], lanes, width,
                        tile.panels + j * pairs * kPanelLanes);
    }
    kernels.products(x.pairs(column), pairs, {tile.panels, pairs * kPanelLanes, kPanelLanes, panels},
                     {tile.sums, stride, Ending::kPromote, x.scales_at(column), 1, factors});
  }
}

}  // namespace fulgurite::cpu
