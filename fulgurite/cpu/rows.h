#pragma once
// Rows of activations, f32, bf16 or fp16 as the plan says, to and from the fp32 that loops work in.

#include <algorithm>

#include "fulgurite/core/any_view.h"
#include "fulgurite/cpu/kernels.h"

namespace fulgurite::cpu {

// Elements of a row that are widened at a time: a buffer of so many stands on the stack.
inline constexpr int64_t kRowTile = 512;

// `count` elements from `first` as fp32: where they stand, or widened into `buffer`.
inline const float* as_floats(const Kernels& kernels, const ConstTensor<1>& row, int64_t first, int64_t count,
                              float* buffer) {
  if (row.dtype == DType::kF32) return row.as<float>().data + first;
  const auto decode = row.dtype == DType::kF16 ? kernels.decode_fp16 : kernels.decode_bf16;
  decode(reinterpret_cast<const uint16_t*>(row.data) + first, count, buffer);
  return buffer;
}

// Writes `count` values from element `first` on, rounded once to the row's type.
inline void write_floats(const Kernels& kernels, const float* values, int64_t first, int64_t count,
                         const Tensor<1>& row) {
  if (row.dtype != DType::kF32) {
    const auto narrow = row.dtype == DType::kF16 ? kernels.narrow_fp16 : kernels.narrow_bf16;
    return narrow(values, count, reinterpret_cast<uint16_t*>(row.data) + first);
  }
  float* const to = row.as<float>().data + first;
  if (to != values) std::copy_n(values, count, to);
}

// Calls tile(first, count) for every tile of [0, width).
template <class Tile>
void for_each_tile(int64_t width, const Tile& tile) {
  for (int64_t first = 0; first < width; first += kRowTile) tile(first, std::min(kRowTile, width - first));
}

// values[i], rounded as an activation of type `dtype` is stored.
inline void round_floats(const Kernels& kernels, DType dtype, float* values, int64_t count) {
  if (dtype == DType::kBF16) kernels.round_bf16(values, count);
  if (dtype != DType::kF16) return;
  for_each_tile(count, [&](int64_t first, int64_t some) {
    uint16_t narrow[kRowTile];
    kernels.narrow_fp16(values + first, some, narrow);
    kernels.decode_fp16(narrow, some, values + first);
  });
}

}  // namespace fulgurite::cpu
