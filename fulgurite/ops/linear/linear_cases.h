#pragma once
// Shapes of the test and the benchmark: the real layers of DeepSeek-V3.2 (671B), those of the tiny model, and
// the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::linear {

struct Case {
  const char* what;
  int64_t tokens, in, out;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 128, 16},      Case{"one of each", 1, 1, 1},          Case{"primes", 3, 131, 17},
    Case{"one over a tile", 5, 129, 9}, Case{"one below a lane", 2, 15, 8},    Case{"tiny q_a", 37, 384, 256},
    Case{"tiny kv_a", 4, 384, 576},     Case{"short last block", 6, 200, 130},
};

inline constexpr std::array kRealCases{
    Case{"671B kv_a", 2, 7168, 576},
    Case{"671B wq_b, 256 rows", 3, 1536, 256},
};

// Weights of fp4: columns in whole groups of theirs, not always of 128.
inline constexpr std::array kFp4Cases{
    Case{"no tokens", 0, 128, 16},         Case{"one group", 1, 32, 1},
    Case{"short of 128", 3, 96, 17},       Case{"a last block of 32", 5, 160, 9},
    Case{"eight tokens", 8, 256, 70},      Case{"more than a few", 13, 672, 37},
    Case{"more than a tile", 2, 384, 131}, Case{"more than a chunk", 261, 2208, 5},
};

}  // namespace fulgurite::linear
