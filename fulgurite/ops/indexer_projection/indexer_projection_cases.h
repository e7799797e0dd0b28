#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B), the tiny model, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::indexer_projection {

struct Case {
  const char* what;
  int64_t tokens, hidden, head_dim, heads;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 128, 16, 2},      Case{"one of each", 1, 1, 1, 1}, Case{"primes", 3, 131, 17, 5},
    Case{"one over a tile", 5, 129, 9, 9}, Case{"tiny", 7, 384, 128, 8},    Case{"671B", 2, 7168, 128, 64},
};

}  // namespace fulgurite::indexer_projection
