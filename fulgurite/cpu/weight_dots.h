#pragma once
// Sums of products of rows of activations and rows of a weight (Kernels::dots): the weight is read as it is
// stored, some columns of some rows at a time, so that the activations that meet them stay in the caches.

#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/operand_rows.h"
#include "fulgurite/cpu/sum_tile.h"

namespace fulgurite::cpu {

// Are its rows met so, rather than packed into panels? Blocks must not divide a group of 128 columns.
bool is_met_along_rows(const Kernels& kernels, const PreparedMatrix& weight);

enum class Promotion {
  kNone,      // sums of products with bf16(weight)
  kPerGroup,  // of codes, each group of 128 columns promoted by the scales of activations and weight
};

// tile.sums[t * tile_lanes(x.rows) + l] = the product of row t of x and row rows.first + l of the weight.
void weight_dots(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
                 Promotion promotion, const SumTile& tile);

}  // namespace fulgurite::cpu
