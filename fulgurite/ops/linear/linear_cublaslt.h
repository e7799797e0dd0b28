#pragma once
// What the row of cuBLASLt plans: its memory, and for how many tokens an algorithm is chosen.

#include <algorithm>
#include <bit>

#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear::cublaslt {

inline constexpr int64_t kTokens = 4;  // the library takes multiples of so many
inline constexpr int64_t kLibraryBytes = int64_t{32} << 20;

// Algorithms are chosen for 4, 8, 16, ... tokens up to the largest call: one that is padded to a recorded length runs as it
// would alone.
inline int64_t planned_tokens(int64_t tokens) {
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max(tokens, kTokens))));
}

// Offsets of the workspace; the library's own part is the first.
struct Workspace {
  int64_t codes, scales, last, bytes;
};
inline Workspace workspace_of(const Problem& problem) {
  const auto rounded = [](int64_t bytes) { return (bytes + 255) / 256 * 256; };
  const int64_t tokens = (problem.largest_batch + kTokens - 1) / kTokens * kTokens;
  Workspace at{kLibraryBytes, 0, 0, 0};
  at.scales = at.codes + rounded(tokens * problem.in);
  at.last = at.scales + rounded((problem.in + 127) / 128 * tokens * 4);
  at.bytes = at.last + rounded(kTokens * problem.out * 2);
  return at;
}

}  // namespace fulgurite::linear::cublaslt
