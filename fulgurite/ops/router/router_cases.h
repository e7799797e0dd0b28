#pragma once
// Shapes of the test and the benchmark: DeepSeek-V3.2 (671B), GLM-5's single group, the tiny model, and the
// awkward.

#include <array>
#include <cstdint>

namespace fulgurite::router {

struct Case {
  const char* what;
  int64_t tokens, hidden, experts, groups, groups_kept, experts_per_token;
};

inline constexpr std::array kAwkwardCases{
    Case{"no tokens", 0, 16, 8, 2, 1, 2},         Case{"one expert", 2, 3, 1, 1, 1, 1},
    Case{"groups of one", 5, 17, 7, 7, 3, 2},     Case{"all that stay", 3, 31, 12, 4, 2, 6},
    Case{"one over a chunk", 65, 20, 9, 3, 2, 4}, Case{"tiny model", 37, 384, 8, 4, 2, 2},
};

inline constexpr std::array kRealCases{
    Case{"671B", 4, 7168, 256, 8, 4, 8},
    Case{"one group", 4, 6144, 256, 1, 1, 8},
};

inline constexpr std::array kV4Cases{
    Case{"Flash", 3, 4096, 256, 1, 1, 6},
    Case{"Pro", 2, 7168, 384, 1, 1, 6},
};

}  // namespace fulgurite::router
