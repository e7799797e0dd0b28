#pragma once
// Shapes of the test and the benchmark: the query heads and the key of DeepSeek-V3.2 (671B) and of the tiny
// model, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::rotary {

struct Case {
  const char* what;
  int64_t tokens, heads, dim;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 4, 8},      Case{"no heads", 2, 0, 8},     Case{"one pair", 1, 1, 2},
    Case{"primes", 5, 3, 26},        Case{"tiny query", 37, 8, 64}, Case{"671B query", 3, 128, 64},
    Case{"671B indexer", 2, 64, 64},
};

}  // namespace fulgurite::rotary
