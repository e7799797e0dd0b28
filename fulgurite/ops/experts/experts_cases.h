#pragma once
// Shapes of the test and the benchmark: slices of DeepSeek-V3.2's (671B) experts, the tiny model's layers,
// and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::experts {

struct Case {
  const char* what;
  int64_t tokens, hidden, experts, experts_per_token, width, shared_width;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 16, 4, 2, 8, 8},
    Case{"one of each", 1, 1, 1, 1, 1, 1},
    Case{"primes", 5, 37, 7, 3, 13, 19},
    Case{"one over a tile", 3, 17, 4, 4, 9, 33},
    Case{"no shared expert", 4, 33, 5, 2, 15, 0},
    Case{"dense", 3, 50, 0, 0, 0, 70},
    Case{"more experts than chosen", 2, 20, 40, 2, 6, 6},
};

inline constexpr std::array kTinyCases{
    Case{"tiny model", 3, 384, 8, 2, 128, 128},
    Case{"tiny model, dense", 1, 384, 0, 0, 0, 1024},
};

inline constexpr std::array kRealCases{
    Case{"671B, 32 of 2048 columns", 1, 7168, 3, 2, 32, 32},
    Case{"671B, 40 of 7168 rows", 1, 40, 2, 1, 2048, 2048},
};

// DeepSeek-V4: experts of fp4.
inline constexpr std::array kFp4Cases{
    Case{"no tokens", 0, 32, 4, 2, 32, 32},     Case{"one group", 1, 32, 1, 1, 32, 32},
    Case{"short of 128", 5, 96, 7, 3, 64, 32},  Case{"one over a tile", 3, 160, 4, 4, 288, 160},
    Case{"tiny model", 9, 256, 8, 2, 128, 128}, Case{"no shared expert", 4, 64, 5, 2, 96, 0},
};
inline constexpr std::array kV4Cases{
    Case{"Flash, 32 of 2048 columns", 1, 4096, 3, 2, 32, 32},
    Case{"Flash, 40 of 4096 rows", 1, 64, 2, 1, 2048, 2048},
    Case{"Pro, 32 of 3072 columns", 1, 7168, 3, 2, 32, 32},
};

}  // namespace fulgurite::experts
