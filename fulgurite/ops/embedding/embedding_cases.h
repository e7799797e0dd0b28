#pragma once
// Shapes of the test and the benchmark: rows of DeepSeek-V3.2 (671B; fewer of them), those of the tiny model,
// and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::embedding {

struct Case {
  const char* what;
  int64_t tokens, vocabulary, hidden;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 5, 16}, Case{"one of each", 1, 1, 1},       Case{"one over a chunk", 9, 7, 17},
    Case{"tiny", 37, 2048, 384}, Case{"671B, 64 rows", 5, 64, 7168},
};

}  // namespace fulgurite::embedding
