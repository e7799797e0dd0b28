#pragma once
// Shapes of the test and the benchmark: the norms of DeepSeek-V3.2 (671B), those of the tiny model, and the
// awkward.

#include <array>
#include <cstdint>

namespace fulgurite::norm {

struct Case {
  const char* what;
  int64_t tokens, width;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 16},        Case{"one of each", 1, 1},    Case{"one below a chunk", 2, 15},
    Case{"one over a chunk", 3, 17}, Case{"prime", 5, 131},        Case{"tiny hidden", 37, 384},
    Case{"tiny latent", 4, 512},     Case{"671B hidden", 3, 7168}, Case{"671B query latent", 2, 1536},
};

}  // namespace fulgurite::norm
