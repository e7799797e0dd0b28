#pragma once
// Where a token of a batch stands: which sequence's cache it reads and writes, and at which position. A token
// sees the cache rows 0..position of its own sequence.

#include <cstdint>

namespace fulgurite {

struct TokenPlace {
  int32_t sequence = 0;
  int32_t position = 0;
};

}  // namespace fulgurite
