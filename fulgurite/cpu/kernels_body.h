// The loops of kernels.h, compiled by each kernels_*.cpp with different -m flags. kRegisterBytes is the
// machine's vector, kTileRows x kTileColumns the register tile; they change no result. Everything here has
// internal linkage: code built for AVX-512 must never be merged with code that an older machine runs. No
// #pragma once: it is a body.

// GCC 12 sees uninitialized values in its own intrinsics (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#include <cstdint>
#include <cstring>
#include <utility>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/peak_body.h"

namespace {

using fulgurite::cpu::Rows;

constexpr int64_t kLanes = 16;                                                // of a dot product
constexpr int64_t kWidth = kRegisterBytes / static_cast<int>(sizeof(float));  // of a register
typedef float Floats __attribute__((vector_size(kRegisterBytes)));

template <class To, class From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline const float* row(const Rows& rows, int64_t i) {
  return rows.base + (rows.index != nullptr ? rows.index[i] : i) * rows.stride;
}

// The seven low bits of a code, placed at fp32's exponent and fraction, are the value times 2^-120,
// subnormals included. (Plain loops: the compiler widens bytes better than its own vector conversion does.)
void decode_e4m3(const uint8_t* __restrict codes, int64_t count, float scale, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t code = codes[i];
    const uint32_t magnitude = code & 0x7Fu;
    const uint32_t value = same_bits<uint32_t>(same_bits<float>(magnitude << 20) * 0x1p120f);
    const uint32_t nan = magnitude == 0x7Fu ? 0x7FC00000u : 0u;
    out[i] = same_bits<float>(value | nan | ((code & 0x80u) << 24)) * scale;
  }
}

void decode_bf16(const uint16_t* __restrict values, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = same_bits<float>(static_cast<uint32_t>(values[i]) << 16);
}

inline float sum_of_lanes(const float* v) {
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// A row's elements from `first` on, padded with zeros to sixteen.
struct Tail {
  float values[kLanes] = {};
  Tail(const float* row, int64_t first, int64_t width) {
    std::memcpy(values, row + first, static_cast<size_t>(width - first) * sizeof(float));
  }
};

// One register's worth of the sixteen lanes of A x B dot products: lanes [lane, lane + kWidth).
template <int A, int B>
inline void dot_lanes(const float* const* x, const float* const* w, int64_t width, int64_t lane,
                      float (*sums)[kLanes]) {
  Floats sum[A][B] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Floats right[B];
    for (int b = 0; b < B; ++b) right[b] = load(w[b] + i + lane);
    for (int a = 0; a < A; ++a) {
      const Floats left = load(x[a] + i + lane);
      for (int b = 0; b < B; ++b) sum[a][b] = sum[a][b] + left * right[b];
    }
  }
  if (i < width) {
    for (int a = 0; a < A; ++a) {
      const Tail left(x[a], i, width);
      for (int b = 0; b < B; ++b) {
        const Tail right(w[b], i, width);
        sum[a][b] = sum[a][b] + load(left.values + lane) * load(right.values + lane);
      }
    }
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) store(sums[a * B + b] + lane, sum[a][b]);
}

template <int A, int B>
inline void dot_tile(const float* const* x, const float* const* w, int64_t width, float* y,
                     int64_t y_stride) {
  float sums[A * B][kLanes];
  for (int64_t lane = 0; lane < kLanes; lane += kWidth) dot_lanes<A, B>(x, w, width, lane, sums);
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) y[a * y_stride + b] = sum_of_lanes(sums[a * B + b]);
}

template <int A>
inline void dot_strip(const float* const* x, const Rows& w, int64_t width, float* y, int64_t y_stride) {
  int64_t b = 0;
  for (; b + kTileColumns <= w.count; b += kTileColumns) {
    const float* right[kTileColumns];
    for (int i = 0; i < kTileColumns; ++i) right[i] = row(w, b + i);
    dot_tile<A, kTileColumns>(x, right, width, y + b, y_stride);
  }
  for (; b < w.count; ++b) {
    const float* right = row(w, b);
    dot_tile<A, 1>(x, &right, width, y + b, y_stride);
  }
}

void dot_rows(const Rows& x, const Rows& w, int64_t width, float* y, int64_t y_stride) {
  int64_t a = 0;
  for (; a + kTileRows <= x.count; a += kTileRows) {
    const float* left[kTileRows];
    for (int i = 0; i < kTileRows; ++i) left[i] = row(x, a + i);
    dot_strip<kTileRows>(left, w, width, y + a * y_stride, y_stride);
  }
  for (; a < x.count; ++a) {
    const float* left = row(x, a);
    dot_strip<1>(&left, w, width, y + a * y_stride, y_stride);
  }
}

// A outputs x B registers of columns.
template <int A, int B>
inline void combine_tile(const float* p, int64_t p_stride, int64_t p_step, const Rows& w, int64_t column,
                         float* y, int64_t y_stride) {
  Floats sum[A][B] = {};
  for (int64_t j = 0; j < w.count; ++j) {
    const float* from = row(w, j) + column;
    Floats right[B];
    for (int b = 0; b < B; ++b) right[b] = load(from + b * kWidth);
    for (int a = 0; a < A; ++a) {
      const float left = p[a * p_stride + j * p_step];
      for (int b = 0; b < B; ++b) sum[a][b] = sum[a][b] + right[b] * left;
    }
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) store(y + a * y_stride + column + b * kWidth, sum[a][b]);
}

template <int A>
inline void combine_strip(const float* p, int64_t p_stride, int64_t p_step, const Rows& w, int64_t width,
                          float* y, int64_t y_stride) {
  int64_t column = 0;
  for (; column + kTileColumns * kWidth <= width; column += kTileColumns * kWidth)
    combine_tile<A, kTileColumns>(p, p_stride, p_step, w, column, y, y_stride);
  for (; column + kWidth <= width; column += kWidth)
    combine_tile<A, 1>(p, p_stride, p_step, w, column, y, y_stride);
  for (; column < width; ++column) {
    for (int a = 0; a < A; ++a) {
      float sum = 0.0f;
      for (int64_t j = 0; j < w.count; ++j) sum = sum + row(w, j)[column] * p[a * p_stride + j * p_step];
      y[a * y_stride + column] = sum;
    }
  }
}

void combine_rows(const float* p, int64_t p_stride, int64_t p_step, int64_t outputs, const Rows& w,
                  int64_t width, float* y, int64_t y_stride) {
  int64_t a = 0;
  for (; a + kTileRows <= outputs; a += kTileRows)
    combine_strip<kTileRows>(p + a * p_stride, p_stride, p_step, w, width, y + a * y_stride, y_stride);
  for (; a < outputs; ++a)
    combine_strip<1>(p + a * p_stride, p_stride, p_step, w, width, y + a * y_stride, y_stride);
}

}  // namespace

#include "fulgurite/cpu/words_body.h"

// These use it.
#include "fulgurite/cpu/operands_body.h"
#include "fulgurite/cpu/products_body.h"
#include "fulgurite/cpu/products_columns_body.h"
#include "fulgurite/cpu/softmax_body.h"

#include "fulgurite/cpu/dots_body.h"  // after the products
#include "fulgurite/cpu/dots_e2m1_body.h"
#include "fulgurite/cpu/double_dots_body.h"
#include "fulgurite/cpu/gated_body.h"  // after the exponential

namespace {

void add(const float* a, const float* b, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, load(a + i) + load(b + i));
  for (; i < count; ++i) out[i] = a[i] + b[i];
}

double sum_squares(const float* x, int64_t count) {
  Doubles sums[kLanes / kDoubles] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t k = 0; k < kLanes / kDoubles; ++k) {
      const Doubles wide = widen(x + i + k * kDoubles);
      sums[k] = sums[k] + wide * wide;
    }
  }
  double lanes[kLanes];
  std::memcpy(lanes, sums, sizeof lanes);
  for (int64_t l = 0; i + l < count; ++l)
    lanes[l] += static_cast<double>(x[i + l]) * static_cast<double>(x[i + l]);
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

void scale(const float* x, float factor, const float* weight, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store(out + i, load(weight + i) * (load(x + i) * factor));
  for (; i < count; ++i) out[i] = weight[i] * (x[i] * factor);
}

// --- the indexer ---

void round_bf16(float* values, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    values[i] = same_bits<float>(static_cast<uint32_t>(nearest_bf16(values[i])) << 16);
}

template <bool interleaved>
inline void rotate_pairs(const float* __restrict cosine, const float* __restrict sine, int64_t pairs,
                         float* __restrict x) {
  const int64_t step = interleaved ? 2 : 1;
  float* __restrict const y = x + (interleaved ? 1 : pairs);
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i * step], b = y[i * step];
    x[i * step] = a * cosine[i] - b * sine[i];
    y[i * step] = a * sine[i] + b * cosine[i];
  }
}

void rotate(const float* cosine, const float* sine, int64_t pairs, bool interleaved, float* x) {
  if (interleaved)
    rotate_pairs<true>(cosine, sine, pairs, x);
  else
    rotate_pairs<false>(cosine, sine, pairs, x);
}

template <int64_t stride, int... l>
inline Floats partners(Floats x, std::integer_sequence<int, l...>) {
  return __builtin_shufflevector(x, x, (l ^ static_cast<int>(stride))...);
}

// The butterflies of one stride within a register: each lane plus or minus its partner.
template <int64_t stride>
inline Floats butterfly(Floats x) {
  Words sign;
  for (int64_t l = 0; l < kWidth; ++l) sign[l] = (l & stride) != 0 ? 0x80000000u : 0u;
  const Floats partner = partners<stride>(x, std::make_integer_sequence<int, kWidth>());
  return partner + same_bits<Floats>(same_bits<Words>(x) ^ sign);
}

inline Floats butterflies(Floats x) {
  x = butterfly<2>(butterfly<1>(x));
  if constexpr (kWidth > 4) x = butterfly<4>(x);
  if constexpr (kWidth > 8) x = butterfly<8>(x);
  return x;
}

// The same butterflies of a vector that fits the registers of a wide machine.
template <int64_t kCount>
inline void hadamard_in_registers(float* x, float scale) {
  constexpr int kRegisters = kCount / kWidth;
  Floats v[kRegisters];
#pragma GCC unroll 32
  for (int i = 0; i < kRegisters; ++i) v[i] = butterflies(load(x + i * kWidth));
#pragma GCC unroll 8
  for (int stride = 1; stride < kRegisters; stride *= 2) {
#pragma GCC unroll 32
    for (int i = 0; i < kRegisters; ++i) {
      if ((i & stride) != 0) continue;
      const Floats left = v[i], right = v[i + stride];
      v[i] = left + right;
      v[i + stride] = left - right;
    }
  }
#pragma GCC unroll 32
  for (int i = 0; i < kRegisters; ++i) store(x + i * kWidth, v[i] * scale);
}

void hadamard(float* x, int64_t count, float scale) {
  if (count == 128) return hadamard_in_registers<128>(x, scale);
  int64_t stride = 1;
  if (count >= kWidth) {
    for (int64_t i = 0; i < count; i += kWidth) store(x + i, butterflies(load(x + i)));
    stride = kWidth;
  }
  for (; stride < count; stride *= 2) {
    const int64_t step = stride < kWidth ? 1 : kWidth;
    for (float* block = x; block < x + count; block += 2 * stride) {
      for (float* a = block; a < block + stride; a += step) {
        float* const b = a + stride;
        if (step == 1) {
          const float left = *a, right = *b;
          *a = left + right;
          *b = left - right;
        } else {
          const Floats left = load(a), right = load(b);
          store(a, left + right);
          store(b, left - right);
        }
      }
    }
  }
  for (int64_t i = 0; i < count; ++i) x[i] = x[i] * scale;
}

// Branch-free: negative numbers turn around, and what is above infinity is NaN.
inline uint32_t ascending_code(float score) {
  const uint32_t bits = same_bits<uint32_t>(score), magnitude = bits & 0x7FFFFFFFu;
  const uint32_t number = magnitude == 0 ? 0u : bits;
  const uint32_t code = number ^ (0x80000000u | (0u - (number >> 31)));
  return magnitude > 0x7F800000u ? 0u : code;
}

constexpr int64_t kScores = 16;  // looked at together: few are admitted once enough are known

inline void admit_some(const float* scores, int64_t count, int32_t first, uint32_t least, uint32_t* codes,
                       int32_t* positions, int64_t& admitted) {
  uint32_t code[kScores], any = 0;
  for (int64_t i = 0; i < count; ++i) code[i] = ascending_code(scores[i]);
  for (int64_t i = 0; i < count; ++i) any |= code[i] >= least ? 1u : 0u;
  if (any == 0) return;
  for (int64_t i = 0; i < count; ++i) {
    codes[admitted] = code[i];
    positions[admitted] = first + static_cast<int32_t>(i);
    admitted += code[i] >= least ? 1 : 0;
  }
}

int64_t admit(const float* scores, int64_t count, int32_t first, uint32_t least, uint32_t* codes,
              int32_t* positions) {
  int64_t i = 0, admitted = 0;
  for (; i + kScores <= count; i += kScores)
    admit_some(scores + i, kScores, first + static_cast<int32_t>(i), least, codes, positions, admitted);
  if (i < count)
    admit_some(scores + i, count - i, first + static_cast<int32_t>(i), least, codes, positions, admitted);
  return admitted;
}

int64_t count_at_least(const uint32_t* values, int64_t count, uint32_t least) {
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) found += values[i] >= least ? 1u : 0u;
  return found;
}

constexpr fulgurite::cpu::Kernels kTable{decode_e4m3,
                                         decode_bf16,
                                         dot_rows,
                                         combine_rows,
                                         narrow_bf16,
                                         quantize_e4m3,
                                         widen_e4m3,
                                         interleave,
                                         pack_e4m3,
                                         pack_bf16,
                                         products,
                                         head_sums,
                                         peak_fp32,
                                         peak_pairs,
                                         add,
                                         sum_squares,
                                         scale,
                                         round_bf16,
                                         rotate,
                                         hadamard,
                                         admit,
                                         count_at_least,
                                         softmax_tile,
                                         multiply,
                                         divide_to_bf16,
                                         silu_mul,
                                         add_scaled,
                                         products_columns<widen_e4m3, products>,
                                         widen_two,
                                         largest_scores,
                                         rescaled_products,
                                         multiply_add,
                                         dots,
                                         sum_quarters,
                                         decode_fp16,
                                         narrow_fp16,
                                         pool,
                                         false,
                                         widen_e2m1,
                                         dots_e2m1,
                                         silu_mul_limited,
                                         dot_rows_in_double};

}  // namespace
