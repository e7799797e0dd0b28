#include "fulgurite/ops/query_prepare/query_prepare.h"

#include "fulgurite/core/check.h"

namespace fulgurite::query_prepare {

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.rope % 2 == 0 && problem.rope <= problem.head_dim,
                   "query_prepare: {} of {} dimensions are no pairs", problem.rope, problem.head_dim);
  const int64_t tokens = args.q.extent[0], positions = args.table.cosine.extent[0];
  const Check clause("query_prepare");
  clause
      .tensor("q", args.q, activation_type(problem.setting.numerics),
              {tokens, problem.heads, problem.head_dim})
      .tensor("places", args.places, {tokens})
      .tensor("cosine", args.table.cosine, {positions, problem.rope / 2})
      .tensor("sine", args.table.sine, {positions, problem.rope / 2});
  if (args.normed) clause.tensor("normed", args.normed, {tokens, problem.heads, problem.head_dim});
  if (!reads_values(problem.setting)) return;
  for (int64_t t = 0; t < tokens; ++t) clause.range("position", args.places(t).position, 0, positions - 1);
}

}  // namespace fulgurite::query_prepare
