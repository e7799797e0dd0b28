#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

#include <algorithm>
#include <bit>

#include "fulgurite/core/cache_clauses.h"

namespace fulgurite::indexer_prepare {
namespace {

void check_sizes(const Problem& problem) {
  FULGURITE_ASSERT(std::has_single_bit(static_cast<uint64_t>(problem.head_dim)),
                   "indexer_prepare: head_dim {} is no power of two", problem.head_dim);
  FULGURITE_ASSERT(problem.rope % 2 == 0 && problem.rope_first >= 0 &&
                       problem.rope_first + problem.rope <= problem.head_dim,
                   "indexer_prepare: {} rotated dimensions from {} of {}", problem.rope, problem.rope_first,
                   problem.head_dim);
}

void check_keys(const Check& clause, const Problem& problem, const Args& args) {
  const int64_t tokens = args.q.extent[0], dim = problem.head_dim;
  const auto extent = cache_extent(problem, args.key_cache.keys.extent);
  check_pages(clause, problem, args.key_cache.pages);
  clause.tensor("k", args.k, activation_type(problem.setting.numerics), {tokens, dim})
      .tensor("k_weight", args.k_weight, {dim})
      .tensor("k_bias", args.k_bias, {dim})
      .tensor("key_cache", args.key_cache.keys, index_operand(problem.setting.numerics),
              {extent[0], extent[1], dim});
  if (problem.setting.numerics.index_quant == IndexQuant::kFp8)
    clause.tensor("key_cache, scales", args.key_cache.scales, {extent[0], extent[1]});
  if (args.rotated_k) clause.tensor("rotated_k", args.rotated_k, {tokens, dim});
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t)
    clause.range("sequence", args.places(t).sequence, 0, problem.sequences - 1)
        .range("position", args.places(t).position, 0, problem.context - 1);
}

}  // namespace

void check(const Problem& problem, const Args& args) {
  check_sizes(problem);
  const int64_t tokens = args.q.extent[0], dim = problem.head_dim;
  const int64_t positions = args.table.cosine.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  const DType operand = index_operand(problem.setting.numerics);
  const Check clause("indexer_prepare");
  clause.tensor("q", args.q, type, {tokens, problem.heads, dim})
      .tensor("gate", args.gate, {tokens, problem.heads})
      .tensor("places", args.places, {tokens})
      .tensor("cosine", args.table.cosine, {positions, problem.rope / 2})
      .tensor("sine", args.table.sine, {positions, problem.rope / 2})
      .tensor("weights", args.weights, {tokens, problem.heads})
      .tensor("q_operand", args.q_operand, operand, {tokens, problem.heads, dim});
  if (args.rotated_q) clause.tensor("rotated_q", args.rotated_q, {tokens, problem.heads, dim});
  if (problem.keys) check_keys(clause, problem, args);
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t)
    clause.range("position", args.places(t).position, 0, positions - 1);
}

rotary::Layout layout_in_force(const Problem& problem) {
  switch (problem.setting.numerics.indexer_rope) {
    case IndexerRope::kFamily:
      return problem.layout;
    case IndexerRope::kInterleaved:
      return rotary::Layout::kInterleaved;
    case IndexerRope::kHalfSplit:
      return rotary::Layout::kHalfSplit;
  }
  FULGURITE_ASSERT(false, "indexer_rope {}", static_cast<int>(problem.setting.numerics.indexer_rope));
}

}  // namespace fulgurite::indexer_prepare
