#pragma once
// Products of bf16 operands: activations laid out by copy_rows (operand_rows.h), weights read as bf16 (as
// stored; of f32, the nearest; of blocks, bf16(code * scale)). One fp32 sum over ascending columns, which
// does not know how many tokens there are. Used as fp8_matmul.h shows.

#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/operand_rows.h"
#include "fulgurite/cpu/sum_tile.h"

namespace fulgurite::cpu {

// bf16_sums takes every form but fp4 and blocks of an odd number of columns.
Support takes_bf16_weight(const MatrixFormat& weight);

// tile.sums[t * tile_lanes(x.rows) + l] = the product of row t of x and row rows.first + l of weight. Lanes
// up to the next multiple of 16 may be written.
void bf16_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
               const SumTile& tile);

}  // namespace fulgurite::cpu
