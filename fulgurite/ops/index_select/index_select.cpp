#include "fulgurite/ops/index_select/index_select.h"

#include "fulgurite/core/cache_clauses.h"

namespace fulgurite::index_select {

int32_t position_of(uint64_t key, Ties ties) {
  const auto place = static_cast<uint32_t>(key);
  return static_cast<int32_t>(ties == Ties::kLower ? ~place : place);
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.topk > 0 && problem.ratio > 0, "index_select: topk {}, ratio {}", problem.topk,
                   problem.ratio);
  const int64_t tokens = args.q.extent[0];
  const DType operand = index_operand(problem.setting.numerics);
  const auto extent = cache_extent(problem, args.key_cache.keys.extent);
  const Check check("index_select");
  check_pages(check, problem, args.key_cache.pages);
  check.tensor("q", args.q, operand, {tokens, problem.heads, problem.head_dim})
      .tensor("weights", args.weights, {tokens, problem.heads})
      .tensor("key_cache", args.key_cache.keys, operand, {extent[0], extent[1], problem.head_dim})
      .tensor("places", args.places, {tokens})
      .tensor("selected", args.selected, {tokens, problem.topk});
  if (operand == DType::kF8_E4M3)
    check.tensor("key_cache, scales", args.key_cache.scales, {extent[0], extent[1]});
  FULGURITE_ASSERT(!args.slots || problem.page_tokens > 0, "index_select: slots of a cache without pages");
  if (args.slots) check.tensor("slots", args.slots, {tokens, problem.topk});
  if (args.scores) check.tensor("scores", args.scores, {tokens, problem.context});
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t) {
    check.range("places, a sequence", args.places(t).sequence, 0, problem.sequences - 1)
        .range("places, a position", args.places(t).position, 0, (problem.context + 1) * problem.ratio - 2);
  }
}

}  // namespace fulgurite::index_select
