#pragma once
// Shapes of the test and the benchmark: DeepSeek-V4's (a few of its heads), the tiny model's, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::compressed_attention {

// Positions are drawn below `context`; the first token stands at its end, the second at its beginning.
struct Case {
  const char* what;
  int64_t tokens, heads, head_dim, rope, window, ratio, topk, sequences, context;

  int64_t entries() const { return ratio == 0 ? 0 : context / ratio; }
  int64_t ring() const { return window + tokens - 1 < context ? window + tokens - 1 : context; }
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 4, 32, 8, 8, 4, 3, 1, 20},
    Case{"one of each", 1, 1, 2, 2, 1, 1, 1, 1, 1},
    Case{"window alone", 3, 5, 66, 14, 7, 0, 0, 2, 101},
    Case{"primes", 3, 7, 134, 26, 13, 3, 11, 2, 101},
    Case{"no rope", 2, 3, 48, 0, 9, 4, 5, 1, 30},
    Case{"all rotated", 2, 3, 24, 24, 9, 4, 5, 1, 30},
    Case{"topk beyond the entries", 4, 4, 18, 2, 6, 4, 64, 2, 40},
    Case{"a window that is no whole tile", 3, 17, 70, 6, 100, 4, 65, 1, 400},
    Case{"all entries, one over a tile", 3, 16, 66, 2, 64, 4, 0, 1, 261},
    Case{"fewer keys than a tile", 3, 3, 130, 2, 128, 128, 0, 1, 50},
    Case{"tiny model, ratio 4", 3, 8, 512, 64, 128, 4, 32, 2, 400},
};

inline constexpr std::array kRealCases{
    Case{"window, 5 heads", 2, 5, 512, 64, 128, 0, 0, 1, 3000},
    Case{"Flash, 5 heads", 2, 5, 512, 64, 128, 4, 512, 1, 9000},
    Case{"Pro, 5 heads", 2, 5, 512, 64, 128, 4, 1024, 1, 9000},
    Case{"ratio 128, 2 heads", 2, 2, 512, 64, 128, 128, 0, 1, 131072},
};

}  // namespace fulgurite::compressed_attention
