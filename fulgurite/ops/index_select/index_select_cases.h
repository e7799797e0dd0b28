#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B) and the tiny model with contexts longer than
// topk, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::index_select {

struct Case {
  const char* what;
  int64_t tokens, heads, head_dim, topk, sequences, context;
};

// More keys than are chosen.
inline constexpr std::array kLongCases{
    Case{"one of two keys", 1, 1, 1, 1, 1, 2},  Case{"one of many", 2, 3, 17, 1, 2, 300},
    Case{"all but one", 3, 2, 16, 64, 1, 65},   Case{"one over a tile", 4, 2, 15, 5, 1, 65},
    Case{"primes", 5, 7, 31, 13, 3, 211},       Case{"one over the candidates", 2, 1, 8, 10, 1, 85},
    Case{"tiny model", 4, 8, 128, 128, 2, 700},
};

// As many keys as are chosen, or fewer.
inline constexpr std::array kShortCases{
    Case{"no tokens", 0, 4, 16, 8, 1, 20},
    Case{"one key", 1, 1, 1, 1, 1, 1},
    Case{"exactly topk", 3, 2, 16, 64, 2, 64},
    Case{"topk beyond the context", 3, 2, 16, 300, 1, 129},
};

inline constexpr std::array kRealCases{
    Case{"671B", 2, 64, 128, 2048, 1, 4500},
};

// DeepSeek-V4: rows that stand for four tokens.
inline constexpr std::array kRatioCases{
    Case{"no row yet", 3, 2, 16, 4, 1, 1},
    Case{"no room for a row", 2, 2, 16, 4, 1, 0},
    Case{"fewer rows than topk", 6, 3, 17, 40, 2, 30},
    Case{"primes", 7, 7, 31, 13, 3, 211},
    Case{"Flash", 2, 64, 128, 512, 1, 1300},
    Case{"Pro", 2, 64, 128, 1024, 1, 1300},
};

}  // namespace fulgurite::index_select
