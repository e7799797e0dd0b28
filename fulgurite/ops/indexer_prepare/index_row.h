#pragma once
// The end of both paths of the indexer's operands, a vector at a time, as the reference does it: what becomes
// of a rotated query or key (Hadamard, index_quant), and the weight of a head. Whoever has rotated values from
// elsewhere makes the operands with these.

#include <span>

#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {

// Hadamard, rounded to the activation's type.
void hadamard(const Numerics& numerics, std::span<float> x);

// x as index_quant says, into a row of index_operand(numerics); returns the scale of codes, otherwise 1.
float store_operand(const Numerics& numerics, std::span<const float> x, const Tensor<1>& row);

// A rotated query into its operand; returns its scale.
float store_rotated_query(const Problem& problem, const ConstTensor<1>& rotated, const Tensor<1>& operand);

// A rotated key into its row of the cache.
void store_rotated_key(const Problem& problem, const ConstTensor<1>& rotated, TokenPlace place,
                       const IndexKeys& cache);

// What the selection reads, as the cache holds it, without Hadamard.
void store_key(const Numerics& numerics, const ConstTensor<1>& key, int64_t sequence, int64_t row,
               const IndexKeys& cache);

float head_weight(const Problem& problem, float gate, float q_scale);

}  // namespace fulgurite::indexer_prepare
