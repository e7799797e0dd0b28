#pragma once
// In which order Hopper's kernels of the fp8 linear add the parts of K; without CUDA, for rules and references.

#include "fulgurite/core/tensor_core.h"

namespace fulgurite::linear::hopper {

// Parts of K of a weight [out, in], for any number of tokens: as many as give most of 132 processors a tile of 64
// rows and a part, none of them empty.
inline int parts_of(int64_t in, int64_t out) {
  const int64_t tiles = (out + 63) / 64, blocks = (in + 127) / 128;
  int parts = tiles >= 96 ? 1 : tiles >= 48 ? 2 : 4;
  while (parts > 1 && (parts - 1) * ((blocks + parts - 1) / parts) >= blocks) parts /= 2;
  return parts;
}
inline SumOrder order_of(int64_t in, int64_t out) {
  return {parts_of(in, out), 0, SumOrder::Merge::kAscending};
}

}  // namespace fulgurite::linear::hopper
