#include "fulgurite/ops/indexer_projection/indexer_projection.h"

#include "fulgurite/core/check.h"

namespace fulgurite::indexer_projection {

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0];
  Check("indexer_projection")
      .tensor("x", args.x, {tokens, problem.hidden})
      .tensor("k", args.k, {tokens, problem.head_dim})
      .tensor("gate", args.gate, {tokens, problem.heads});
  FULGURITE_ASSERT(args.wk != nullptr && args.wk->out == problem.head_dim && args.wk->in == problem.hidden &&
                       format_of(*args.wk) == problem.wk,
                   "indexer_projection: wk is not the one that was planned");
  FULGURITE_ASSERT(args.gate_weight != nullptr && args.gate_weight->out == problem.heads &&
                       args.gate_weight->in == problem.hidden &&
                       format_of(*args.gate_weight) == problem.gate_weight,
                   "indexer_projection: the gate weight is not the one that was planned");
}

}  // namespace fulgurite::indexer_projection
