#pragma once
// Shapes of the test and the benchmark: DeepSeek-V4's heads (Flash has 64, Pro 128, the tiny model 8 of the
// same), and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::query_prepare {

struct Case {
  const char* what;
  int64_t tokens, heads, head_dim, rope;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 4, 16, 4},    Case{"no heads", 2, 0, 16, 4},   Case{"one pair", 1, 1, 2, 2},
    Case{"nothing turns", 2, 3, 5, 0}, Case{"primes", 7, 3, 131, 26},   Case{"tiny", 5, 8, 512, 64},
    Case{"V4 Flash", 3, 64, 512, 64},  Case{"V4 Pro", 1, 128, 512, 64},
};

}  // namespace fulgurite::query_prepare
