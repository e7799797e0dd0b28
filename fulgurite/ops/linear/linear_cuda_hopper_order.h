#pragma once
// In which order Hopper's kernels of the fp8 linear add the parts of K, and the memory that they need; without CUDA, for rules
// and references.

#include "fulgurite/core/host_device.h"
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

// Tokens whose codes lie in the workspace: rounded up, so that a tile's can be copied whole.
FULGURITE_HOST_DEVICE inline int64_t coded_tokens(int64_t tokens) {
  for (const int tile : {8, 16, 32, 64, 128})
    if (tokens <= tile) return tile;
  return tokens;
}
// Their codes and scales.
inline int64_t workspace_bytes(int64_t tokens, int64_t in) {
  return (coded_tokens(tokens) * in + 255) / 256 * 256 +
         (in + 127) / 128 * ((tokens + 255) / 256 * 256) * static_cast<int64_t>(sizeof(float));
}

}  // namespace fulgurite::linear::hopper
