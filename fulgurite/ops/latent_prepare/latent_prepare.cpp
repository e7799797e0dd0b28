#include "fulgurite/ops/latent_prepare/latent_prepare.h"

#include <algorithm>

#include "fulgurite/core/cache_clauses.h"

namespace fulgurite::latent_prepare {

LatentRow row_of(const Problem& problem) {
  return {problem.setting.numerics.latent_cache, problem.latent, problem.rope};
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.rope % 2 == 0, "latent_prepare: {} dimensions have no pairs", problem.rope);
  FULGURITE_ASSERT(args.cache.row == row_of(problem),
                   "latent_prepare: the cache is not the one that was planned");
  const int64_t tokens = args.kv.extent[0];
  const int64_t positions = args.table.cosine.extent[0];
  const auto extent = cache_extent(problem, args.cache.rows.extent);
  const Check clause("latent_prepare");
  check_pages(clause, problem, args.cache.pages);
  clause
      .tensor("kv", args.kv, activation_type(problem.setting.numerics),
              {tokens, problem.latent + problem.rope})
      .tensor("weight", args.weight, {problem.latent})
      .tensor("places", args.places, {tokens})
      .tensor("cosine", args.table.cosine, {positions, problem.rope / 2})
      .tensor("sine", args.table.sine, {positions, problem.rope / 2})
      .tensor("cache", args.cache.rows, {extent[0], extent[1], args.cache.row.bytes()});
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t)
    clause.range("sequence", args.places(t).sequence, 0, problem.sequences - 1)
        .range("position", args.places(t).position, 0, std::min(problem.context, positions) - 1);
}

}  // namespace fulgurite::latent_prepare
