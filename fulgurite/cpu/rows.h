#pragma once
// Rows of activations, f32 or bf16 as the plan says, to and from the fp32 that loops work in.

#include <algorithm>

#include "fulgurite/core/any_view.h"
#include "fulgurite/cpu/kernels.h"

namespace fulgurite::cpu {

// Elements of a row that are widened at a time: a buffer of so many stands on the stack.
inline constexpr int64_t kRowTile = 512;

// `count` elements from `first` as fp32: where they stand, or widened into `buffer`.
inline const float* as_floats(const Kernels& kernels, const ConstTensor<1>& row, int64_t first, int64_t count,
                              float* buffer) {
  if (row.dtype != DType::kBF16) return row.as<float>().data + first;
  kernels.decode_bf16(reinterpret_cast<const uint16_t*>(row.data) + first, count, buffer);
  return buffer;
}

// Writes `count` values from element `first` on, rounded once to the row's type.
inline void write_floats(const Kernels& kernels, const float* values, int64_t first, int64_t count,
                         const Tensor<1>& row) {
  if (row.dtype == DType::kBF16)
    return kernels.narrow_bf16(values, count, reinterpret_cast<uint16_t*>(row.data) + first);
  float* const to = row.as<float>().data + first;
  if (to != values) std::copy_n(values, count, to);
}

// Calls tile(first, count) for every tile of [0, width).
template <class Tile>
void for_each_tile(int64_t width, const Tile& tile) {
  for (int64_t first = 0; first < width; first += kRowTile) tile(first, std::min(kRowTile, width - first));
}

}  // namespace fulgurite::cpu
