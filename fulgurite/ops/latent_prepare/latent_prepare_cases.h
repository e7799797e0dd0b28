#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B) and the tiny model have the same row; the
// awkward.

#include <array>
#include <cstdint>

namespace fulgurite::latent_prepare {

struct Case {
  const char* what;
  int64_t tokens, latent, rope, sequences, context;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 16, 4, 1, 4},    Case{"one of each", 1, 1, 2, 1, 1},
    Case{"primes", 7, 131, 26, 3, 5},     Case{"one over a chunk", 4, 17, 2, 2, 9},
    Case{"real row", 37, 512, 64, 2, 64},
};

}  // namespace fulgurite::latent_prepare
