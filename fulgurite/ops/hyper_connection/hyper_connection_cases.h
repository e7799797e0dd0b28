#pragma once
// Shapes of the test and the benchmark: DeepSeek-V4's (Flash, Pro, the tiny model), and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::hyper_connection {

struct Case {
  const char* what;
  int64_t tokens, hidden;
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 16},
    Case{"one of each", 1, 1},
    Case{"one below a lane", 2, 15},
    Case{"one over a piece", 3, 257},
    Case{"one over a chunk", 17, 31},
    Case{"prime", 5, 521},
    Case{"tiny", 37, 256},
    Case{"V4 Flash", 2, 4096},
    Case{"V4 Pro", 1, 7168},
};

}  // namespace fulgurite::hyper_connection
