#pragma once
// Where a sequence's rows lie in a cache. Without pages they lie together, and the cache is [sequences, context] of rows.
// In pages it is a pool [pages, tokens of a page], and a table says which page holds which of a sequence's tokens.

#include "fulgurite/core/host_device.h"
#include "fulgurite/core/view.h"

namespace fulgurite {

// Of a plan that keeps pages: the public kernels' number.
inline constexpr int64_t kPageTokens = 64;

struct CachePages {
  int64_t tokens = 0;  // of a page; 0: no pages
  View<const int32_t, 2>
      table;  // [sequences, pages of a sequence]: pages of the pool, a multiple of which is a slot

  // The first two indices of the cache's view.
  struct Place {
    int64_t part = 0;
    int64_t row = 0;
  };
  FULGURITE_HOST_DEVICE Place place(int64_t sequence, int64_t row) const {
    if (tokens == 0) return {sequence, row};
    return {table(sequence, row / tokens), row % tokens};
  }
};

inline int64_t pages_of(int64_t context, int64_t page_tokens) {
  return (context + page_tokens - 1) / page_tokens;
}

}  // namespace fulgurite
