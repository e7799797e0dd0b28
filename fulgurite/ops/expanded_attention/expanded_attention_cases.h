#pragma once
// Shapes of the test and the benchmark: one head of DeepSeek-V3.2 (671B), the tiny model, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::expanded_attention {

struct Case {
  const char* what;
  int64_t tokens, heads, nope, rope, value, latent, topk, sequences, context;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 4, 16, 8, 16, 32, 8, 1, 20},
    Case{"one of each", 1, 1, 1, 1, 1, 1, 1, 1, 1},
    Case{"primes", 3, 3, 13, 7, 11, 67, 11, 2, 101},
    Case{"no rope, wide value", 2, 2, 9, 0, 33, 50, 20, 1, 30},
    Case{"topk beyond the context", 4, 2, 17, 2, 8, 17, 64, 2, 10},
    Case{"tiny model, 2 heads", 1, 2, 64, 64, 64, 512, 128, 1, 300},
};

inline constexpr std::array kRealCases{
    Case{"671B, 1 head", 1, 1, 128, 64, 128, 512, 64, 1, 100},
};

}  // namespace fulgurite::expanded_attention
