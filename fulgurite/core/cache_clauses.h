#pragma once
// What contracts ask of a cache: the shape that the problem's sequences, context and page_tokens say.

#include "fulgurite/core/cache_pages.h"
#include "fulgurite/core/check.h"

namespace fulgurite {

// What the first two extents of its view have to be. In pages the pool may be of any size.
template <class Problem, size_t Rank>
std::array<int64_t, 2> cache_extent(const Problem& problem, const std::array<int64_t, Rank>& found) {
  if (problem.page_tokens == 0) return {problem.sequences, problem.context};
  return {found[0], problem.page_tokens};
}
template <class Problem>
void check_pages(const Check& check, const Problem& problem, const CachePages& pages) {
  FULGURITE_ASSERT(pages.tokens == problem.page_tokens, "pages of {} tokens, {} were planned", pages.tokens,
                   problem.page_tokens);
  if (problem.page_tokens == 0) return;
  check.tensor("page table", pages.table,
               {problem.sequences, pages_of(problem.context, problem.page_tokens)});
}

// What kernels say that meet a sequence's rows one after the other.
inline Support takes_no_pages(int64_t page_tokens) {
  if (page_tokens == 0) return std::nullopt;
  return Refusal{"a cache in pages, takes rows that lie together"};
}

}  // namespace fulgurite
