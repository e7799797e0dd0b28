#pragma once
// In which order the bf16 linear of Hopper adds the parts of K (cuda/bf16_product.h); without CUDA, for rules and
// references.

#include "fulgurite/core/tensor_core.h"

namespace fulgurite::linear::hopper {

// Parts of K of a weight [out, in], for any number of tokens: as many as give most of 132 processors a tile of 64
// rows and a part, none of them empty; whole boxes of 64 columns to each.
inline SumOrder bf16_order_of(int64_t in, int64_t out) {
  const int64_t tiles = (out + 63) / 64, boxes = (in + 63) / 64;
  int64_t parts = tiles >= 96 ? 1 : tiles >= 48 ? 2 : tiles >= 24 ? 4 : 8;
  while (parts > 1 && (parts - 1) * ((boxes + parts - 1) / parts) >= boxes) parts /= 2;
  if (parts == 1) return {};
  return {parts, (boxes + parts - 1) / parts * 64, SumOrder::Merge::kAscending};
}

}  // namespace fulgurite::linear::hopper
