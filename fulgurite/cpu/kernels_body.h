// The loops of kernels.h, compiled by kernels_portable.cpp, kernels_avx2.cpp and kernels_avx512.cpp with
// different -m flags. kRegisterBytes is the machine's vector, kTileRows x kTileColumns the register tile;
// they change no result. Everything here has internal linkage: code built for AVX-512 must never be merged
// with code that an older machine runs. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#include "fulgurite/cpu/kernels.h"

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

constexpr fulgurite::cpu::Kernels kTable{decode_e4m3, decode_bf16, dot_rows, combine_rows};

}  // namespace
