// `products` by VDPBF16PS, for the kernels_*.cpp whose instruction set has it. A tile of rows x panels of
// sums stays in registers over all pairs: 24 of the 32 registers are sums, so that the instruction's latency
// (6 cycles) is covered; few rows take more panels instead. No #pragma once: it is a body.

#include <immintrin.h>

#include <type_traits>
#include <utility>

namespace {
namespace pairs_in_registers {

// start + k * stride for small constant k, in forms that fit an address: one register for the start, three
// for the multiples.
struct Steps {
  int64_t one, three, five;
  explicit Steps(int64_t bytes) : one(bytes), three(3 * bytes), five(5 * bytes) {}

  template <int k>
  int64_t times() const {
    static_assert(k >= 0 && k < 6);
    if constexpr (k == 3) return three;
    if constexpr (k == 5) return five;
    return k * one;
  }
};

// The addresses of `Count` equally spaced things: one start for each six of them.
template <int Count>
struct Spaced {
  static constexpr int kStarts = (Count + 5) / 6;
  const char* start[kStarts];
  Steps steps;

  Spaced(const void* base, int64_t bytes) : steps(bytes) {
    for (int i = 0; i < kStarts; ++i) start[i] = static_cast<const char*>(base) + 6 * i * bytes;
  }
  template <int k>
  const char* at() const {
    return start[k / 6] + steps.times<k % 6>();
  }
  void advance(int64_t bytes) {
    for (int i = 0; i < kStarts; ++i) start[i] += bytes;
  }
};

template <int Count, class Body, int... k>
inline __attribute__((always_inline)) void each(const Body& body, std::integer_sequence<int, k...>) {
  (body(std::integral_constant<int, k>()), ...);
}
template <int Count, class Body>
inline __attribute__((always_inline)) void each(const Body& body) {
  each<Count>(body, std::make_integer_sequence<int, Count>());
}

// Calls body with count, if it is one of 1 to Most, as a constant.
template <int Most, class Body>
inline __attribute__((always_inline)) void with_constant(int64_t count, const Body& body) {
  each<Most>([&](auto k) __attribute__((always_inline)) {
    if (count == k + 1) body(std::integral_constant<int, k + 1>());
  });
}

inline __m512bh pair_everywhere(const char* at) {
  int pair;
  std::memcpy(&pair, at, sizeof pair);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
}

// Where the sums of a tile go. Copies: the stores could change what `Sums` holds, as far as the compiler
// knows.
struct Place {
  float* base;
  int64_t stride, factor_stride;
  Ending ending;
  const float* row_factors;
  const float* lane_factors;

  Place(const Sums& c, int64_t i, int64_t j)
      : base(c.base + i * c.stride + j * kPanel),
        stride(c.stride),
        factor_stride(c.row_factor_stride),
        ending(c.ending),
        row_factors(c.row_factors),
        lane_factors(c.lane_factors) {
    if (ending != Ending::kPromote) return;
    row_factors += i * factor_stride;
    lane_factors += j * kPanel;
  }
  float* at(int64_t row, int64_t panel) const { return base + row * stride + panel * kPanel; }
};

template <int R, int P>
using Tile = __m512[R][P];

template <int R, int P>
inline __attribute__((always_inline)) void begin(const Place& place, Tile<R, P>& sum) {
  each<R * P>([&](auto n) __attribute__((always_inline)) { sum[n / P][n % P] = _mm512_setzero_ps(); });
  if (place.ending != Ending::kAccumulate) return;
  each<R * P>([&](auto n) __attribute__((always_inline)) {
    sum[n / P][n % P] = _mm512_loadu_ps(place.at(n / P, n % P));
  });
}

template <int R, int P>
inline __attribute__((always_inline)) void finish(const Place& place, Tile<R, P>& sum) {
  if (place.ending == Ending::kPromote) {
    __m512 lanes[P];
    each<P>([&](auto p) __attribute__((always_inline)) {
      lanes[p] = _mm512_loadu_ps(place.lane_factors + p * kPanel);
    });
    each<R>([&](auto r) __attribute__((always_inline)) {
      const __m512 row = _mm512_set1_ps(place.row_factors[r * place.factor_stride]);
      each<P>([&](auto p) __attribute__((always_inline)) {
        const __m512 there = _mm512_loadu_ps(place.at(r, p));
        sum[r][p] = _mm512_fmadd_ps(sum[r][p], _mm512_mul_ps(row, lanes[p]), there);
      });
    });
  }
  each<R * P>([&](auto n) __attribute__((always_inline)) {
    _mm512_storeu_ps(place.at(n / P, n % P), sum[n / P][n % P]);
  });
}

template <int R, int P>
inline __attribute__((always_inline)) void add_pair(const Spaced<R>& left, const Spaced<P>& right,
                                                    Tile<R, P>& sum) {
  __m512bh panel[P];
  each<P>([&](auto p) __attribute__((always_inline)) {
    panel[p] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(right.template at<p>()));
  });
  each<R>([&](auto r) __attribute__((always_inline)) {
    const __m512bh row = pair_everywhere(left.template at<r>());
    each<P>([&](auto p)
                __attribute__((always_inline)) { sum[r][p] = _mm512_dpbf16_ps(sum[r][p], panel[p], row); });
  });
}

// Rows [i, i + R) with panels [j, j + P).
template <int R, int P>
void tile(const PairRows& a, int64_t i, int64_t pairs, const Panels& b, int64_t j, const Sums& c) {
  constexpr int64_t kPairBytes = 4, kElementBytes = 2;
  Spaced<R> left(a.base + i * a.row_stride, a.row_stride * kElementBytes);
  Spaced<P> right(b.base + j * b.panel_stride, b.panel_stride * kPairBytes);
  const int64_t left_step = a.pair_stride * kElementBytes, right_step = b.pair_stride * kPairBytes;
  const Place place(c, i, j);

  Tile<R, P> sum;
  begin<R, P>(place, sum);
  for (int64_t k = 0; k < pairs; ++k) {
    add_pair<R, P>(left, right, sum);
    left.advance(left_step);
    right.advance(right_step);
  }
  finish<R, P>(place, sum);
}

// Pairs in parts, and what the sums are multiplied by before each.
struct Parts {
  int64_t pairs, part;
  const float* factors;
  int64_t factor_stride;
};

template <int R, int P>
void rescaled_tile(const PairRows& a, int64_t i, const Parts& parts, const Panels& b, int64_t j,
                   const Sums& c) {
  Spaced<R> left(a.base + i * a.row_stride, a.row_stride * 2);
  Spaced<P> right(b.base + j * b.panel_stride, b.panel_stride * 4);
  const int64_t left_step = a.pair_stride * 2, right_step = b.pair_stride * 4;
  const int64_t pairs = parts.pairs, part = parts.part;
  const float* factors = parts.factors + i;
  const Place place(c, i, j);

  Tile<R, P> sum;
  begin<R, P>(place, sum);
  for (int64_t first = 0; first < pairs; first += part, factors += parts.factor_stride) {
    each<R>([&](auto r) __attribute__((always_inline)) {
      const __m512 factor = _mm512_set1_ps(factors[r]);
      each<P>([&](auto p) __attribute__((always_inline)) { sum[r][p] = _mm512_mul_ps(sum[r][p], factor); });
    });
    const int64_t last = first + part < pairs ? first + part : pairs;
    for (int64_t k = first; k < last; ++k) {
      add_pair<R, P>(left, right, sum);
      left.advance(left_step);
      right.advance(right_step);
    }
  }
  finish<R, P>(place, sum);
}

template <int P, int... heights>
void rescaled_strip(const PairRows& a, const Parts& parts, const Panels& b, int64_t j, const Sums& c) {
  int64_t i = 0;
  const auto tiles_of = [&](auto height) {
    for (; i + height <= a.count; i += height) rescaled_tile<height, P>(a, i, parts, b, j, c);
  };
  (tiles_of(std::integral_constant<int, heights>()), ...);
}

void rescaled_products(const PairRows& a, int64_t pairs, int64_t part, const float* factors,
                       int64_t factor_stride, const Panels& b, const Sums& c) {
  const Parts parts{pairs, part, factors, factor_stride};
  int64_t j = 0;
  for (; j + 4 <= b.count; j += 4) rescaled_strip<4, 6, 5, 4, 3, 2, 1>(a, parts, b, j, c);
  for (; j + 2 <= b.count; j += 2) rescaled_strip<2, 12, 8, 6, 4, 3, 2, 1>(a, parts, b, j, c);
  for (; j < b.count; ++j) rescaled_strip<1, 24, 16, 12, 8, 4, 2, 1>(a, parts, b, j, c);
}

// All rows with panels [j, j + P): tiles of the first height named as long as they fit, then of the next.
template <int P, int... heights>
void strip(const PairRows& a, int64_t pairs, const Panels& b, int64_t j, const Sums& c) {
  int64_t i = 0;
  const auto tiles_of = [&](auto height) {
    for (; i + height <= a.count; i += height) tile<height, P>(a, i, pairs, b, j, c);
  };
  (tiles_of(std::integral_constant<int, heights>()), ...);
}

// --- up to eight lanes of one panel: registers of half the width take half the time ---

template <int R>
void half_tile(const PairRows& a, int64_t i, int64_t pairs, const Panels& b, const Sums& c) {
  Spaced<R> left(a.base + i * a.row_stride, a.row_stride * 2);
  const uint32_t* right = b.base;
  const int64_t left_step = a.pair_stride * 2;
  const Place place(c, i, 0);

  __m256 sum[R];
  each<R>([&](auto r) __attribute__((always_inline)) { sum[r] = _mm256_setzero_ps(); });
  for (int64_t k = 0; k < pairs; ++k, right += b.pair_stride) {
    const auto lanes =
        reinterpret_cast<__m256bh>(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(right)));
    each<R>([&](auto r) __attribute__((always_inline)) {
      int pair;
      std::memcpy(&pair, left.template at<r>(), sizeof pair);
      sum[r] = _mm256_dpbf16_ps(sum[r], lanes, reinterpret_cast<__m256bh>(_mm256_set1_epi32(pair)));
    });
    left.advance(left_step);
  }
  each<R>([&](auto r) __attribute__((always_inline)) {
    _mm512_storeu_ps(place.at(r, 0), _mm512_zextps256_ps512(sum[r]));
  });
}

template <int... heights>
void half_strip(const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
  int64_t i = 0;
  const auto tiles_of = [&](auto height) {
    for (; i + height <= a.count; i += height) half_tile<height>(a, i, pairs, b, c);
  };
  (tiles_of(std::integral_constant<int, heights>()), ...);
}

void products(const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
  if (b.count == 1 && b.lanes <= kPanel / 2 && c.ending == Ending::kStore)
    return half_strip<24, 16, 12, 8, 4, 2, 1>(a, pairs, b, c);
  int64_t j = 0;
  if (a.count <= 2)
    for (; j + 8 <= b.count; j += 8) strip<8, 2, 1>(a, pairs, b, j, c);
  for (; j + 4 <= b.count; j += 4) strip<4, 6, 5, 4, 3, 2, 1>(a, pairs, b, j, c);
  if (b.count - j == 3) strip<3, 8, 7, 6, 5, 4, 3, 2, 1>(a, pairs, b, j, c);
  if (b.count - j == 2) strip<2, 12, 8, 7, 6, 5, 4, 3, 2, 1>(a, pairs, b, j, c);
  if (b.count - j == 1) strip<1, 24, 16, 12, 8, 7, 6, 5, 4, 3, 2, 1>(a, pairs, b, j, c);
}

}  // namespace pairs_in_registers
}  // namespace
