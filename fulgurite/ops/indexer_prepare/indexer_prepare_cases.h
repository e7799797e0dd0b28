#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B), the tiny model, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::indexer_prepare {

struct Case {
  const char* what;
  int64_t tokens, heads, head_dim, rope, sequences, context;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 2, 8, 4, 1, 4},    Case{"one of each", 1, 1, 2, 2, 1, 1},
    Case{"no rotation", 2, 3, 16, 0, 1, 4}, Case{"all rotated", 5, 3, 16, 16, 3, 5},
    Case{"tiny", 17, 8, 128, 64, 2, 32},    Case{"671B", 3, 64, 128, 64, 1, 16},
};

}  // namespace fulgurite::indexer_prepare
