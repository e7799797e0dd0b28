#pragma once
// Products of the fp8 linear with weights of e2m1 (MXFP4, NVFP4), read as they are stored: activations coded by
// code_rows in the order of fp4 weights. For each group of 32 (16) columns of the weight: a partial sum of
// products of codes, and sum = fma(partial, scale of the activations * scale of the weight, sum). No sum knows how
// many tokens there are.

#include "fulgurite/core/matrix.h"
#include "fulgurite/cpu/operand_rows.h"
#include "fulgurite/cpu/sum_tile.h"

namespace fulgurite::cpu {

// tile.sums[t * tile_lanes(x.rows) + l] = the product of row t of x and row rows.first + l of weight. Lanes
// up to the next multiple of 16 may be written.
void fp4_sums(const Kernels& kernels, const OperandRows& x, const PreparedMatrix& weight, RowRange rows,
              const SumTile& tile);

}  // namespace fulgurite::cpu
