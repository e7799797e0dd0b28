#pragma once
// Stored weights as the products read them: what a lane holds of a block of columns, and how it becomes
// doubles, or of fp4 bytes.

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
  static constexpr int kSwizzle = 7;
  // Twice the values of eight codes, signed bytes. prmt looks the low three bits up, and gives the sign of what it finds, 0,
  // where the fourth is set: so one of two look-ups of a code is its magnitude, and the other 0.
  __device__ static void widen(uint32_t codes, uint32_t& first, uint32_t& second) {
    const uint32_t turned = codes ^ 0x88888888u;
    first = difference(magnitudes(codes), magnitudes(turned));
    second = difference(magnitudes(codes >> 16), magnitudes(turned >> 16));
  }

 private:
  __device__ static uint32_t magnitudes(uint32_t codes) {
    uint32_t bytes;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(0x03020100u), "r"(0x0C080604u), "r"(codes));
    return bytes;
  }
  // Of bytes below 64; 128 more, so that none borrows.
  __device__ static uint32_t difference(uint32_t a, uint32_t b) {
    return (a + 0x80808080u - b) ^ 0x80808080u;
  }
};

// Codes of e4m3 in units of 2^-9, below 2^18: three digits of seven bits, each with the sign.
struct Fp4Operand {
  static constexpr float kUnits = 512.0f;
  static constexpr float kOfProduct = 0x1p-10f;  // of half a unit of fp4 and one of these
  // Four neighbours' digits, signed bytes.
  __device__ static uint32_t digits(const int (&values)[4], int digit) {
    uint32_t bytes = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int part = abs(values[i]) >> 7 * digit & 0x7F;
      bytes |= (static_cast<uint32_t>(values[i] < 0 ? -part : part) & 0xFFu) << 8 * i;
    }
    return bytes;
  }
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
