#include "fulgurite/ops/expanded_attention/expanded_attention.h"

#include "fulgurite/core/cache_clauses.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {

LatentRow row_of(const Problem& problem) {
  return {problem.setting.numerics.latent_cache, problem.latent, problem.rope};
}

WeightReading reading_of(const Numerics& numerics) {
  return numerics.activation == Activation::kFp32 ? WeightReading::kExact : WeightReading::kBf16;
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.topk > 0, "expanded_attention: topk {}", problem.topk);
  FULGURITE_ASSERT(args.cache.row == row_of(problem),
                   "expanded_attention: the cache is not the one that was planned");
  const int64_t tokens = args.q.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  const auto extent = cache_extent(problem, args.cache.rows.extent);
  const Check check("expanded_attention");
  check_pages(check, problem, args.cache.pages);
  check.tensor("q", args.q, type, {tokens, problem.heads, problem.nope + problem.rope})
      .tensor("cache", args.cache.rows, {extent[0], extent[1], args.cache.row.bytes()})
      .tensor("selected", args.selected, {tokens, problem.topk})
      .tensor("places", args.places, {tokens})
      .tensor("out", args.out, type, {tokens, problem.heads, problem.value});
  FULGURITE_ASSERT(args.weight != nullptr &&
                       args.weight->out == problem.heads * (problem.nope + problem.value) &&
                       args.weight->in == problem.latent && format_of(*args.weight) == problem.weight,
                   "expanded_attention: the weight is not the one that was planned");
  if (reads_values(problem.setting))
    sparse_attention::check_selected(check, args.selected, args.places, problem.sequences, problem.context);
}

}  // namespace fulgurite::expanded_attention
