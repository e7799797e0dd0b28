#pragma once
// Shapes of the test and the benchmark: DeepSeek-V4's row, which all its models have, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::kv_prepare {

struct Case {
  const char* what;
  int64_t tokens, head_dim, rope, sequences, ring;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 16, 4, 1, 4},     Case{"one of each", 1, 3, 2, 1, 1},
    Case{"nothing turns", 2, 66, 0, 1, 2}, Case{"all turns", 2, 6, 6, 1, 2},
    Case{"primes", 7, 131, 26, 3, 67},     Case{"one over a group and a block", 65, 67, 2, 2, 65},
    Case{"V4's row", 37, 512, 64, 2, 130},
};

}  // namespace fulgurite::kv_prepare
