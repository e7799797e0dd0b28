#pragma once
// Stored weights as the products read them: what a lane holds of a block of columns, and how it becomes
// doubles.

#include <type_traits>

#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/experts/experts_cuda_kernels.h"

namespace fulgurite::experts {

template <bool kExponents>  // scales are e8m0
struct Fp8Form {
  using Scale = std::conditional_t<kExponents, uint8_t, float>;
  static constexpr int kUnit = 16, kColumns = columns_of_lane(Weights::kFp8);  // bytes and columns of a lane
  static constexpr int kBlocksOfGroup = 2;
  static constexpr double kPerProduct = 4.0;  // 2^(1016 - 1014)
  static constexpr int kSwizzle = 1;          // rows that a quarter of a warp reads, less one
  // A code's bits, placed at a double's, are its value times 2^-1016, denormals included.
  __device__ static double value(const uint32_t (&words)[4], int i) {
    const int at_top = static_cast<int>(words[i / 4] << (24 - i % 4 * 8));
    return __hiloint2double(at_top >> 7 & static_cast<int>(0x80FE0000u), 0);
  }
  // Sets bit 7 of a byte in `noted` where a code is NaN's.
  __device__ static void note_nan(const uint32_t (&words)[4], uint32_t& noted) {
#pragma unroll
    for (int i = 0; i < 4; ++i) noted |= (words[i] & 0x7F7F7F7Fu) + 0x01010101u;
  }
};

struct Fp4Form {
  using Scale = uint8_t;
  static constexpr int kUnit = 4, kColumns = columns_of_lane(Weights::kFp4), kBlocksOfGroup = 1;
  static constexpr double kPerProduct = 256.0;  // 2^(1022 - 1014)
  static constexpr int kSwizzle = 7;
  __device__ static double value(const uint32_t (&words)[1], int i) {
    const int at_top = static_cast<int>(words[0] << (28 - i * 4));
    return __hiloint2double(at_top >> 9 & static_cast<int>(0x80380000u), 0);
  }
  __device__ static void note_nan(const uint32_t (&)[1], uint32_t&) {}
};

struct Bf16Form {
  using Scale = float;  // has none
  static constexpr int kUnit = 16, kColumns = columns_of_lane(Weights::kBf16);
  static constexpr int kBlocksOfGroup = 0;  // one sum
  static constexpr double kPerProduct = 1.0;
  static constexpr int kSwizzle = 1;
  __device__ static double value(const uint32_t (&words)[4], int i) {
    return static_cast<double>(i % 2 == 0 ? cuda::low_bf16(words[i / 2]) : cuda::high_bf16(words[i / 2]));
  }
  __device__ static void note_nan(const uint32_t (&)[4], uint32_t&) {}
};

}  // namespace fulgurite::experts
