#include "fulgurite/ops/sparse_attention/sparse_attention.h"
#include "fulgurite/core/cache_clauses.h"

namespace fulgurite::sparse_attention {
namespace {

void check_list(const Check& check, View<const int32_t, 1> list, int64_t position) {
  int64_t previous = -1;
  for (int64_t j = 0; j < list.extent[0]; ++j) {
    if (list(j) == -1 && j > 0) {
      for (; j < list.extent[0]; ++j) check.range("selected, after a -1", list(j), -1, -1);
      return;
    }
    check.range("selected", list(j), previous + 1, position);
    previous = list(j);
  }
}

}  // namespace

void check_selected(const Check& check, View<const int32_t, 2> selected, View<const TokenPlace, 1> places,
                    int64_t sequences, int64_t context) {
  for (int64_t t = 0; t < selected.extent[0]; ++t) {
    check.range("places, a sequence", places(t).sequence, 0, sequences - 1)
        .range("places, a position", places(t).position, 0, context - 1);
    check_list(check, selected[t], places(t).position);
  }
}

int64_t selected_rows(View<const int32_t, 1> selected) {
  int64_t count = 0;
  while (count < selected.extent[0] && selected(count) >= 0) ++count;
  return count;
}

LatentRow row_of(const Problem& problem) {
  return {problem.setting.numerics.latent_cache, problem.latent, problem.rope};
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.topk > 0, "sparse_attention: topk {}", problem.topk);
  FULGURITE_ASSERT(args.cache.row == row_of(problem),
                   "sparse_attention: the cache is not the one that was planned");
  const int64_t tokens = args.q.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  const auto extent = cache_extent(problem, args.cache.rows.extent);
  const Check check("sparse_attention");
  check_pages(check, problem, args.cache.pages);
  check.tensor("q", args.q, type, {tokens, problem.heads, problem.latent})
      .tensor("q_rope", args.q_rope, type, {tokens, problem.heads, problem.rope})
      .tensor("cache", args.cache.rows, {extent[0], extent[1], args.cache.row.bytes()})
      .tensor("selected", args.selected, {tokens, problem.topk})
      .tensor("places", args.places, {tokens})
      .tensor("out", args.out, type, {tokens, problem.heads, problem.latent});
  if (args.slots) check.tensor("slots", args.slots, {tokens, problem.topk});
  if (reads_values(problem.setting))
    check_selected(check, args.selected, args.places, problem.sequences, problem.context);
}

}  // namespace fulgurite::sparse_attention
