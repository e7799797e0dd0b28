#pragma once
// What follows when a tap replaces rotated index queries: both indexers read operands made of them.

#include "fulgurite/execute/layer_context.h"
#include "fulgurite/ops/indexer_prepare/index_row.h"

namespace fulgurite::execute {

// at.rotated_q, at.index_gate -> at.index_operand, at.index_weights.
inline void remake_index_queries(const LayerContext& c, const indexer_prepare::Problem& problem) {
  for (int64_t t = 0; t < c.at.tokens; ++t)
    for (int64_t h = 0; h < problem.heads; ++h) {
      const ConstTensor<1> rotated = Tensor<1>(c.at.rotated_q[t][h]);
      const float scale = indexer_prepare::store_rotated_query(problem, rotated, c.at.index_operand[t][h]);
      c.at.index_weights(t, h) = indexer_prepare::head_weight(problem, c.at.index_gate(t, h), scale);
    }
}

}  // namespace fulgurite::execute
