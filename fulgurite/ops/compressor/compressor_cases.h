#pragma once
// Shapes of the test and the benchmark: DeepSeek-V4's main compressors and its indexer's, and the awkward.

#include <array>
#include <cstdint>

#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {

struct Case {
  const char* what;
  int64_t tokens, hidden, ratio, dim, rope;
  Kind kind;
  int64_t sequences, first;  // the tokens are shared among the sequences; each begins at position `first`
};

inline constexpr std::array kCases{
    Case{"no tokens", 0, 16, 4, 8, 4, Kind::kEntries, 1, 0},
    Case{"one token, an open window", 1, 1, 4, 4, 2, Kind::kIndexKeys, 1, 2},
    Case{"one token that ends a window", 1, 17, 4, 2, 2, Kind::kEntries, 2, 3},
    Case{"one token that ends the second window", 1, 17, 4, 64, 0, Kind::kIndexKeys, 1, 7},
    Case{"primes", 31, 37, 4, 67, 6, Kind::kEntries, 1, 0},
    Case{"many windows, sequences, odd starts", 57, 33, 4, 128, 64, Kind::kIndexKeys, 3, 5},
    Case{"all rotated", 23, 64, 4, 32, 32, Kind::kIndexKeys, 2, 1},
    Case{"a window of 128 from its first token", 130, 19, 128, 34, 10, Kind::kEntries, 1, 0},
    Case{"two windows of 128", 270, 8, 128, 64, 64, Kind::kIndexKeys, 1, 100},
    Case{"sequences that end windows of 128", 15, 40, 128, 100, 20, Kind::kEntries, 5, 125},
};

// What a model has.
struct RealCase {
  const char* what;
  int64_t hidden, ratio, dim;
  Kind kind;
};
inline constexpr std::array kRealCases{
    RealCase{"Flash, ratio 4", 4096, 4, 512, Kind::kEntries},
    RealCase{"Flash, ratio 128", 4096, 128, 512, Kind::kEntries},
    RealCase{"Flash, index keys", 4096, 4, 128, Kind::kIndexKeys},
    RealCase{"Pro, ratio 4", 7168, 4, 512, Kind::kEntries},
    RealCase{"Pro, ratio 128", 7168, 128, 512, Kind::kEntries},
    RealCase{"Pro, index keys", 7168, 4, 128, Kind::kIndexKeys},
};
inline constexpr int64_t kRealRope = 64;

}  // namespace fulgurite::compressor
