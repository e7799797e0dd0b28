#pragma once
// Products of the fp8 linear: activations coded by code_rows (operand_rows.h), weights in blocks, read as
// they are stored; those of fp4, whose activations lie in their order, by fp4_matmul.h. For each group of a weight's columns (its block, at most 128): a partial sum of products
// of codes, and sum = fma(partial, scale of the activations * scale of the weight, sum), groups ascending
// from +0. No sum knows how many tokens there are.
//
//   const OperandRows x = code_rows(kernels, lane, source, rounding, memory);
//   share_tiles(lane, x.rows, weight.out, weight.in, [&](RowRange rows, int thread) {
//     fp8_sums(kernels, x, weight, rows, tile[thread]);
//     store_sums(kernels, tile[thread].sums, rows.count, y, rows.first);
//   });

#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/operand_rows.h"
#include "fulgurite/cpu/sum_tile.h"

namespace fulgurite::cpu {

// Which weights fp8_sums takes: fp4, and blocks of an even number of columns that divides 128, or a multiple of 128.
Support takes_fp8_weight(const MatrixFormat& weight);

// tile.sums[t * tile_lanes(x.rows) + l] = the product of row t of x and row rows.first + l of weight. Lanes
// up to the next multiple of 16 may be written.
void fp8_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
              const SumTile& tile);

}  // namespace fulgurite::cpu
