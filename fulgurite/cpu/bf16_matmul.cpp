#include "fulgurite/cpu/bf16_matmul.h"

#include "fulgurite/cpu/prefetch.h"
#include "fulgurite/cpu/weight_dots.h"

namespace fulgurite::cpu {
namespace {

// Columns [column, column + width) of `lanes` rows from `row` on as one panel.
struct Piece {
  int64_t row, lanes, column, width;
};

// Of rows that are not stored as bf16.
template <class ToBf16>
void pack_converted(const Kernels& kernels, const Piece& piece, const ToBf16& to_bf16, uint32_t* panel) {
  uint16_t narrow[kPanelLanes * kGroupColumns];
  for (int64_t l = 0; l < piece.lanes; ++l) to_bf16(piece.row + l, narrow + l * kGroupColumns);
  kernels.pack_bf16(narrow, kGroupColumns, piece.lanes, piece.width, panel);
}

void pack_narrowed(const Kernels& kernels, const View<const float, 2>& weight, const Piece& piece,
                   uint32_t* panel) {
  const auto narrow = [&](int64_t row, uint16_t* out) {
    kernels.narrow_bf16(&weight(row, piece.column), piece.width, out);
  };
  pack_converted(kernels, piece, narrow, panel);
}

void pack_blocks(const Kernels& kernels, const BlockScaled& weight, const Piece& piece, uint32_t* panel) {
  const auto widen = [&](int64_t row, uint16_t* out) {
    kernels.widen_e4m3(codes_at(weight, row, piece.column), piece.width, weight.scale_at(row, piece.column),
                       out);
  };
  pack_converted(kernels, piece, widen, panel);
}

void pack(const Kernels& kernels, const PreparedMatrix& weight, const Piece& piece, uint32_t* panel) {
  if (const auto* half = std::get_if<View<const bf16, 2>>(&weight.as))
    kernels.pack_bf16(reinterpret_cast<const uint16_t*>(&(*half)(piece.row, piece.column)), half->stride[0],
                      piece.lanes, piece.width, panel);
  else if (const auto* f32 = std::get_if<View<const float, 2>>(&weight.as))
    pack_narrowed(kernels, *f32, piece, panel);
  else
    pack_blocks(kernels, std::get<BlockScaled>(weight.as), piece, panel);
}

// The columns that are packed at once from `column` on: of one group of activations, and of one block.
int64_t piece_columns(const PreparedMatrix& weight, int64_t column) {
  const int64_t width = std::min(kGroupColumns - column % kGroupColumns, weight.in - column);
  const auto* const blocks = std::get_if<BlockScaled>(&weight.as);
  if (blocks == nullptr) return width;
  return std::min(width, blocks->block.columns - column % blocks->block.columns);
}

}  // namespace

Support takes_bf16_weight(const MatrixFormat& weight) {
  if (is_fp4(weight)) return Refusal{"weight in " + describe(weight) + ", takes f32, bf16 or e4m3 blocks"};
  if (weight.form == MatrixForm::kE4M3Blocks && weight.block.columns % 2 != 0)
    return Refusal{"weight in " + describe(weight) + ", takes blocks of an even number of columns"};
  return std::nullopt;
}

void bf16_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
               const SumTile& tile) {
  if (is_met_along_rows(kernels, weight))
    return weight_dots(kernels, x, weight, rows, Promotion::kNone, tile);
  const int64_t stride = tile_lanes(x.rows), panels = (rows.count + kPanelLanes - 1) / kPanelLanes;
  const RowBytes bytes = bytes_of(weight);
  const int64_t element = bytes.width / weight.in;
  int64_t width = 0;
  for (int64_t column = 0; column < weight.in; column += width) {
    width = piece_columns(weight, column);
    const int64_t pairs = (width + 1) / 2;
    for (int64_t j = 0; j < panels; ++j) {
      const int64_t row = rows.first + j * kPanelLanes;
      const int64_t lanes = std::min(kPanelLanes, rows.first + rows.count - row);
      prefetch_ahead(bytes, row, lanes, rows.step(), column * element, width * element);
      pack(kernels, weight, {row, lanes, column, width}, tile.panels + j * pairs * kPanelLanes);
    }
    kernels.products(x.pairs(column), pairs, {tile.panels, pairs * kPanelLanes, kPanelLanes, panels},
                     {tile.sums, stride, column == 0 ? Ending::kStore : Ending::kAccumulate});
  }
}

}  // namespace fulgurite::cpu
