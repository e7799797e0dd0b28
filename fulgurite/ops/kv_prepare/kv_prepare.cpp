#include "fulgurite/ops/kv_prepare/kv_prepare.h"

#include "fulgurite/core/check.h"

namespace fulgurite::kv_prepare {

KvRow row_of(const Problem& problem) {
  return kv_row(problem.setting.numerics, problem.head_dim - problem.rope, problem.rope);
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.rope % 2 == 0 && problem.rope <= problem.head_dim,
                   "kv_prepare: {} of {} dimensions are no pairs", problem.rope, problem.head_dim);
  FULGURITE_ASSERT(args.cache.row == row_of(problem),
                   "kv_prepare: the cache is not the one that was planned");
  const int64_t tokens = args.kv.extent[0], positions = args.table.cosine.extent[0];
  const Check clause("kv_prepare");
  clause.tensor("kv", args.kv, activation_type(problem.setting.numerics), {tokens, problem.head_dim})
      .tensor("weight", args.weight, {problem.head_dim})
      .tensor("places", args.places, {tokens})
      .tensor("cosine", args.table.cosine, {positions, problem.rope / 2})
      .tensor("sine", args.table.sine, {positions, problem.rope / 2})
      .tensor("cache", args.cache.blocks,
              {problem.sequences, KvRow::blocks(problem.ring), args.cache.row.block_bytes()});
  if (!reads_values(problem.setting)) return;
  for (int64_t t = 0; t < tokens; ++t)
    clause.range("sequence", args.places(t).sequence, 0, problem.sequences - 1)
        .range("position", args.places(t).position, 0, positions - 1);
}

}  // namespace fulgurite::kv_prepare
