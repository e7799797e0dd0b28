// Dot products summed in double: products of two floats are exact in it. Part of kernels_body.h. No #pragma once:
// it is a body.

#include <cstdint>
#include <cstring>
#ifdef __FMA__
#include <immintrin.h>
#endif

namespace {

typedef float HalfFloats __attribute__((vector_size(kRegisterBytes / 2)));
typedef double Doubles __attribute__((vector_size(kRegisterBytes)));
constexpr int64_t kDoubleLanes = 8;  // of such a dot product
constexpr int64_t kDoubles = kWidth / 2;

inline Doubles widen(const float* from) {
  HalfFloats narrow;
  std::memcpy(&narrow, from, sizeof narrow);
  return __builtin_convertvector(narrow, Doubles);
}

// sum + a * b: the product is exact, so one rounding with and without fma.
inline Doubles plus_product(Doubles sum, Doubles a, Doubles b) {
#if defined(__AVX512F__)
  return same_bits<Doubles>(
      _mm512_fmadd_pd(same_bits<__m512d>(a), same_bits<__m512d>(b), same_bits<__m512d>(sum)));
#elif defined(__FMA__)
  return same_bits<Doubles>(
      _mm256_fmadd_pd(same_bits<__m256d>(a), same_bits<__m256d>(b), same_bits<__m256d>(sum)));
#else
  return sum + a * b;
#endif
}

// One register's worth of the eight lanes of A x B dot products: lanes [lane, lane + kDoubles).
template <int A, int B>
inline void double_dot_lanes(const float* const* x, const float* const* w, int64_t width, int64_t lane,
                             double (*sums)[kDoubleLanes]) {
  Doubles sum[A][B] = {};
  int64_t i = 0;
  for (; i + kDoubleLanes <= width; i += kDoubleLanes) {
    Doubles right[B];
    for (int b = 0; b < B; ++b) right[b] = widen(w[b] + i + lane);
    for (int a = 0; a < A; ++a) {
      const Doubles left = widen(x[a] + i + lane);
      for (int b = 0; b < B; ++b) sum[a][b] = plus_product(sum[a][b], left, right[b]);
    }
  }
  if (i < width) {
    for (int a = 0; a < A; ++a) {
      const Tail left(x[a], i, width);
      for (int b = 0; b < B; ++b) {
        const Tail right(w[b], i, width);
        sum[a][b] = plus_product(sum[a][b], widen(left.values + lane), widen(right.values + lane));
      }
    }
  }
  for (int a = 0; a < A; ++a)
    for (int b = 0; b < B; ++b) std::memcpy(sums[a * B + b] + lane, &sum[a][b], sizeof(Doubles));
}

template <int A, int B>
inline void double_dot_tile(const float* const* x, const Rows& w, int64_t first, int64_t width, double* y,
                            int64_t y_stride) {
  const float* right[B];
  for (int b = 0; b < B; ++b) right[b] = row(w, first + b);
  double sums[A * B][kDoubleLanes];
  for (int64_t lane = 0; lane < kDoubleLanes; lane += kDoubles)
    double_dot_lanes<A, B>(x, right, width, lane, sums);
  for (int a = 0; a < A; ++a) {
    for (int b = 0; b < B; ++b) {
      const double* const v = sums[a * B + b];
      const double half[] = {v[0] + v[4], v[1] + v[5], v[2] + v[6], v[3] + v[7]};
      y[a * y_stride + first + b] = (half[0] + half[2]) + (half[1] + half[3]);
    }
  }
}

template <int A>
inline void double_dot_strip(const Rows& x, int64_t first, const Rows& w, int64_t width, double* y,
                             int64_t y_stride) {
  const float* left[A];
  for (int a = 0; a < A; ++a) left[a] = row(x, first + a);
  int64_t b = 0;
  for (; b + kTileColumns <= w.count; b += kTileColumns)
    double_dot_tile<A, kTileColumns>(left, w, b, width, y + first * y_stride, y_stride);
  for (; b < w.count; ++b) double_dot_tile<A, 1>(left, w, b, width, y + first * y_stride, y_stride);
}

void dot_rows_in_double(const Rows& x, const Rows& w, int64_t width, double* y, int64_t y_stride) {
  int64_t a = 0;
  for (; a + kTileRows <= x.count; a += kTileRows) double_dot_strip<kTileRows>(x, a, w, width, y, y_stride);
  for (; a < x.count; ++a) double_dot_strip<1>(x, a, w, width, y, y_stride);
}

}  // namespace
