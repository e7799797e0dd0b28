#pragma once
// Shapes of the tests: the vocabularies of DeepSeek-V3.2 (671B) and of the tiny model, and the awkward.

#include <array>
#include <cstdint>

namespace fulgurite::largest_logits {

struct Case {
  const char* what;
  int64_t rows, vocabulary, count;
};

inline constexpr std::array kCases{
    Case{"no rows", 0, 5, 2},    Case{"one of one", 1, 1, 1},          Case{"more than there are", 2, 7, 9},
    Case{"all", 3, 300, 300},    Case{"one over a part", 2, 257, 100}, Case{"greedy", 5, 1999, 1},
    Case{"tiny", 3, 2048, 1024}, Case{"671B", 2, 129280, 1024},        Case{"671B, greedy", 1, 129280, 1},
};

}  // namespace fulgurite::largest_logits
