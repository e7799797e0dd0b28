#pragma once
// Shapes of the test and the benchmark: some heads of DeepSeek-V3.2 (671B, which has 128), those of the tiny
// model, and the awkward. W_UK are the first `rows` of a head, W_UV those from `first_row`.

#include <array>
#include <cstdint>

namespace fulgurite::head_projection {

struct Case {
  const char* what;
  int64_t tokens, heads, rows_per_head, first_row, rows, latent;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 2, 8, 0, 8, 16},     Case{"one of each", 1, 1, 1, 0, 1, 1},
    Case{"primes", 3, 5, 29, 7, 17, 131},     Case{"one over a tile", 5, 2, 20, 11, 9, 129},
    Case{"tiny W_UK", 6, 8, 128, 0, 64, 512}, Case{"tiny W_UV", 1, 8, 128, 64, 64, 512},
};

inline constexpr std::array kRealCases{
    Case{"671B W_UK", 2, 4, 256, 0, 128, 512},
    Case{"671B W_UV", 2, 4, 256, 128, 128, 512},
};

}  // namespace fulgurite::head_projection
