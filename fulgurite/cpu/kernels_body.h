// The loops of kernels.h, compiled by kernels_portable.cpp, kernels_avx2.cpp and kernels_avx512.cpp with
// different -m flags; kTileRows x kTileColumns is the register tile and changes no result. Everything here
// has internal linkage: code built for AVX-512 must never be merged with code that an older machine runs. No
// #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#include "fulgurite/cpu/kernels.h"

namespace {

using fulgurite::cpu::Rows;

constexpr int64_t kLanes = 16;
typedef float Floats __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint16_t Halves __attribute__((vector_size(32)));

inline Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof value);
  return value;
}
inline void store(float* to, Floats value) { std::memcpy(to, &value, sizeof value); }

inline Floats load_part(const float* from, int64_t count) {
  Floats value{};
  std::memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
}

inline float sum_of_lanes(Floats v) {
  float half[8], quarter[4];
  for (int i = 0; i < 8; ++i) half[i] = v[i] + v[i + 8];
  for (int i = 0; i < 4; ++i) quarter[i] = half[i] + half[i + 4];
  return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

// The seven low bits of a code, placed at fp32's exponent and fraction, are the value times 2^-120,
// subnormals included.
inline Floats decode(Bytes codes) {
  const Words wide = __builtin_convertvector(codes, Words);
  const Words magnitude = wide & 0x7Fu;
  const Words bits = magnitude << 20;
  Floats value;
  std::memcpy(&value, &bits, sizeof value);
  value = value * 0x1p120f;
  Words result;
  std::memcpy(&result, &value, sizeof result);
  const Words is_nan = (Words)(magnitude == 0x7Fu);
  result = (result | (is_nan & 0x7FC00000u)) | ((wide & 0x80u) << 24);
  std::memcpy(&value, &result, sizeof value);
  return value;
}

void decode_e4m3(const uint8_t* codes, int64_t count, float scale, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Bytes chunk;
    std::memcpy(&chunk, codes + i, sizeof chunk);
    store(out + i, decode(chunk) * scale);
  }
  if (i < count) {
    Bytes chunk{};
    std::memcpy(&chunk, codes + i, static_cast<size_t>(count - i));
    const Floats value = decode(chunk) * scale;
    std::memcpy(out + i, &value, static_cast<size_t>(count - i) * sizeof(float));
  }
}

void decode_bf16(const uint16_t* values, int64_t count, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    Halves chunk;
    std::memcpy(&chunk, values + i, sizeof chunk);
    const Words bits = __builtin_convertvector(chunk, Words) << 16;
    std::memcpy(out + i, &bits, sizeof bits);
  }
  for (; i < count; ++i) {
    const uint32_t bits = static_cast<uint32_t>(values[i]) << 16;
    std::memcpy(out + i, &bits, sizeof bits);
  }
}

inline const float* row(const Rows& rows, int64_t i) {
  return rows.base + (rows.index != nullptr ? rows.index[i] : i) * rows.stride;
}

// A x B dot products, their sums in registers.
template <int A, int B>
inline void dot_tile(const float* const* x, const float* const* w, int64_t width, float* y,
                     int64_t y_stride) {
  Floats sum[A][B] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    Floats right[B];
    for (int b = 0; b < B; ++b) right[b] = load(w[b] + i);
    for (int a = 0; a < A; ++a) {
      const Floats left = load(x[a] + i);
      for (int b = 0; b < B; ++b) sum[a][b] = sum[a][b] + left * right[b];
    }
  }
  if (i < width) {
    for (int a = 0; a < A; ++a)
      for (int b = 0; b < B; ++b)
        sum[a][b] = sum[a][b] + load_part(x[a] + i, width - i) * load_part(w[b] + i, width - i);
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) y[a * y_stride + b] = sum_of_lanes(sum[a][b]);
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

// A outputs x B chunks of 16 columns.
template <int A, int B>
inline void combine_tile(const float* p, int64_t p_stride, int64_t p_step, const Rows& w, int64_t column,
                         float* y, int64_t y_stride) {
  Floats sum[A][B] = {};
  for (int64_t j = 0; j < w.count; ++j) {
    const float* from = row(w, j) + column;
    Floats right[B];
    for (int b = 0; b < B; ++b) right[b] = load(from + b * kLanes);
    for (int a = 0; a < A; ++a) {
      const float left = p[a * p_stride + j * p_step];
      for (int b = 0; b < B; ++b) sum[a][b] = sum[a][b] + right[b] * left;
    }
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) store(y + a * y_stride + column + b * kLanes, sum[a][b]);
}

template <int A>
inline void combine_strip(const float* p, int64_t p_stride, int64_t p_step, const Rows& w, int64_t width,
                          float* y, int64_t y_stride) {
  int64_t column = 0;
  for (; column + kTileColumns * kLanes <= width; column += kTileColumns * kLanes)
    combine_tile<A, kTileColumns>(p, p_stride, p_step, w, column, y, y_stride);
  for (; column + kLanes <= width; column += kLanes)
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
