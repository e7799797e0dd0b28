// Dot products of rows by VDPBF16PS, after dots_body.h, products_avx512_bf16_body.h and
// panels_avx512_vbmi_body.h. Few rows of x meet the weight as it is stored, sixteen columns of P quads of rows
// at a time, codes becoming bf16 in registers; many meet quads that were packed. No #pragma once: it is a
// body.

#include <immintrin.h>

#include <array>

namespace {
namespace dots_in_registers {

using pairs_in_registers::each;
using pairs_in_registers::Tile;
using panels_in_registers::Decoder;

// The rows of a quad, of which 16 bytes each make a register.
struct QuadRows {
  const uint8_t* row[kQuad];

  QuadRows(const WeightRows& w, int64_t j) {
    for (int l = 0; l < kQuad; ++l) row[l] = row_of(w, j + l);
  }

  // Two registers: bytes [byte, byte + 16) and the sixteen after them.
  __attribute__((always_inline)) void load(int64_t byte, __m512i (&both)[2]) const {
    const auto at = [&](int l) __attribute__((always_inline)) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row[l] + byte));
    };
    // A masked load is no work for the ports that shuffle.
    const auto two = [&](int l) __attribute__((always_inline)) {
      return _mm512_mask_broadcast_i64x4(_mm512_castsi256_si512(at(l)), 0xF0, at(l + 1));
    };
    const __m512i upper = two(0), lower = two(2);
    both[0] = _mm512_shuffle_i32x4(upper, lower, 0x88);
    both[1] = _mm512_shuffle_i32x4(upper, lower, 0xDD);
  }
};

// --- 32 bytes of each row of a quad, as registers of bf16 of eight columns each ---

struct Codes {
  static constexpr int64_t kColumns = 32, kBytes = 1;  // of 32 bytes; of an element
  Decoder decoder;
  __attribute__((always_inline)) void begin(int64_t) {}
  // Registers 2 i and 2 i + 1.
  __attribute__((always_inline)) void convert(const __m512i (&bytes)[2], int i, __m512i (&pairs)[2]) const {
    const __m512i low = decoder.lows(bytes[i]), high = decoder.highs(bytes[i]);
    pairs[0] = _mm512_unpacklo_epi8(low, high);
    pairs[1] = _mm512_unpackhi_epi8(low, high);
  }
};

// Each group with a table of its own, made before.
constexpr int64_t kMostTables = 8;
struct ScaledCodes : Codes {
  Decoder tables[kMostTables];
  ScaledCodes(const float* scales, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g) tables[g] = panels_in_registers::scaled_decoder(scales[g]);
  }
  __attribute__((always_inline)) void begin(int64_t group) { decoder = tables[group]; }
};

struct Halves {
  static constexpr int64_t kColumns = 16, kBytes = 2;
  __attribute__((always_inline)) void begin(int64_t) {}
  __attribute__((always_inline)) void convert(const __m512i (&bytes)[2], int, __m512i (&pairs)[2]) const {
    pairs[0] = bytes[0];
    pairs[1] = bytes[1];
  }
};

// --- tiles ---

// Eight columns of a row of x for each row of a quad.
inline __m512bh for_all_rows(const uint16_t* at) {
  return reinterpret_cast<__m512bh>(
      _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))));
}

// What a tile reads of x and where its sums go: copies, which stores cannot change.
struct TilePlace {
  const uint16_t* x;
  int64_t x_group, x_stride, x_count;
  float* sums;
  int64_t sums_stride;  // from quad to quad
  const float* x_factors;
  const float* w_factors;
  int64_t w_stride;

  TilePlace(const GroupedRows& rows, int64_t i, int64_t j, const QuarterSums& c)
      : x(rows.base + i * rows.row_stride),
        x_group(rows.group_stride),
        x_stride(rows.row_stride),
        x_count(rows.count),
        sums(c.base + 16 * (j / kQuad * c.stride + i)),
        sums_stride(16 * c.stride),
        x_factors(c.x_factors == nullptr ? nullptr : c.x_factors + i),
        w_factors(c.x_factors == nullptr ? nullptr : c.w_factors + j),
        w_stride(c.w_stride) {}
};

template <int R, int P>
inline __attribute__((always_inline)) void start(const TilePlace& at, Tile<R, P>& sum) {
  each<R * P>([&](auto n) __attribute__((always_inline)) {
    constexpr int r = n / P, p = n % P;
    sum[r][p] = at.x_factors != nullptr ? _mm512_setzero_ps()
                                        : _mm512_loadu_ps(at.sums + p * at.sums_stride + 16 * r);
  });
}

template <int R, int P>
inline __attribute__((always_inline)) void promote(const TilePlace& at, int64_t group,
                                                   const Tile<R, P>& sum) {
  const __m512i rows = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
  each<P>([&](auto p) __attribute__((always_inline)) {
    const __m128 four = _mm_loadu_ps(at.w_factors + group * at.w_stride + p * kQuad);
    const __m512 of_weight = _mm512_permutexvar_ps(rows, _mm512_castps128_ps512(four));
    each<R>([&](auto r) __attribute__((always_inline)) {
      float* const there = at.sums + p * at.sums_stride + 16 * r;
      const __m512 factor = _mm512_mul_ps(of_weight, _mm512_set1_ps(at.x_factors[group * at.x_count + r]));
      _mm512_storeu_ps(there, _mm512_fmadd_ps(sum[r][p], factor, _mm512_loadu_ps(there)));
    });
  });
}

template <int R, int P>
inline __attribute__((always_inline)) void keep(const TilePlace& at, const Tile<R, P>& sum) {
  each<R * P>([&](auto n) __attribute__((always_inline)) {
    constexpr int r = n / P, p = n % P;
    _mm512_storeu_ps(at.sums + p * at.sums_stride + 16 * r, sum[r][p]);
  });
}

// sum += sixteen columns of x with two registers of each quad.
template <int R, int P>
inline __attribute__((always_inline)) void add_columns(const uint16_t* x, int64_t x_stride,
                                                       const __m512i (&right)[P][2], Tile<R, P>& sum) {
  each<2>([&](auto k) __attribute__((always_inline)) {
    each<R>([&](auto r) __attribute__((always_inline)) {
      const __m512bh left = for_all_rows(x + r * x_stride + k * kQuadStep);
      each<P>([&](auto p) __attribute__((always_inline)) {
        sum[r][p] = _mm512_dpbf16_ps(sum[r][p], reinterpret_cast<__m512bh>(right[p][k]), left);
      });
    });
  });
}

// All groups; add_group(g, x, sum) adds one.
template <int R, int P, class AddGroup>
inline __attribute__((always_inline)) void add_groups(const TilePlace& at, int64_t groups,
                                                      const AddGroup& add_group) {
  Tile<R, P> sum;
  start<R, P>(at, sum);
  for (int64_t g = 0; g < groups; ++g) {
    add_group(g, at.x + g * at.x_group, sum);
    if (at.x_factors == nullptr) continue;
    promote<R, P>(at, g, sum);
    start<R, P>(at, sum);
  }
  if (at.x_factors == nullptr) keep<R, P>(at, sum);
}

template <int... p>
std::array<QuadRows, sizeof...(p)> quads_of(const WeightRows& w, int64_t j,
                                            std::integer_sequence<int, p...>) {
  return {QuadRows(w, j + p * kQuad)...};
}

// Rows [j, j + 4 P) of the weight as it is stored with all R rows of x.
template <int R, int P, class Weight>
void stored_tile(const GroupedRows& x, const WeightRows& w, int64_t j, int64_t groups,
                 const Weight& in_memory, const QuarterSums& c) {
  Weight weight = in_memory;
  const auto quads = quads_of(w, j, std::make_integer_sequence<int, P>());
  const int64_t ahead = j + P * kQuad < w.count ? P * kQuad * w.stride
                        : w.next != nullptr     ? w.next - row_of(w, j)
                                                : 0;
  const TilePlace at(x, 0, j, c);
  add_groups<R, P>(
      at, groups, [&](int64_t g, const uint16_t* left, Tile<R, P>& sum) __attribute__((always_inline)) {
        weight.begin(g);
        for (int64_t column = 0; column < kDotGroup; column += Weight::kColumns) {
          const int64_t byte = (g * kDotGroup + column) * Weight::kBytes;
          __m512i bytes[P][2];
          each<P>([&](auto p) __attribute__((always_inline)) {
            if (ahead != 0 && byte % 64 == 0)
              for (int l = 0; l < kQuad; ++l) __builtin_prefetch(quads[p].row[l] + ahead + byte, 0, 2);
            quads[p].load(byte, bytes[p]);
          });
          each<Weight::kColumns / 16>([&](auto i) __attribute__((always_inline)) {
            __m512i right[P][2];
            each<P>([&](auto p) __attribute__((always_inline)) { weight.convert(bytes[p], i, right[p]); });
            add_columns<R, P>(left + column + 16 * i, at.x_stride, right, sum);
          });
        }
      });
}

// More rows of x leave registers for fewer quads.
template <int P, class Weight>
void stored_strip(const GroupedRows& x, const WeightRows& w, int64_t j, int64_t groups, const Weight& weight,
                  const QuarterSums& c) {
  pairs_in_registers::with_constant<P <= 2 ? 8 : 4>(
      x.count, [&](auto height) { stored_tile<height, P>(x, w, j, groups, weight, c); });
}

template <class Weight>
void stored_dots(const GroupedRows& x, const WeightRows& w, int64_t groups, const Weight& weight,
                 const QuarterSums& c) {
  int64_t j = 0;
  if (x.count <= 4)
    for (; j + 4 * kQuad <= w.count; j += 4 * kQuad) stored_strip<4>(x, w, j, groups, weight, c);
  for (; j + 2 * kQuad <= w.count; j += 2 * kQuad) stored_strip<2>(x, w, j, groups, weight, c);
  for (; j < w.count; j += kQuad) stored_strip<1>(x, w, j, groups, weight, c);
}

// What begins with group g, and with row j of the weight.
GroupedRows groups_from(GroupedRows x, int64_t g) {
  x.base += g * x.group_stride;
  return x;
}
QuarterSums sums_from(QuarterSums c, const GroupedRows& x, int64_t j, int64_t g) {
  c.base += 16 * (j / kQuad * c.stride);
  if (c.x_factors == nullptr) return c;
  c.x_factors += g * x.count;
  c.w_factors += g * c.w_stride + j;
  return c;
}

// --- packed quads ---

// The rows of w as bf16, four by four: [rows / 4, rounded up][columns / 8][4 rows][8 columns]. `g`: the first
// of the groups, for the weight's tables.
template <class Weight>
void pack_with(const WeightRows& w, int64_t g, int64_t groups, Weight weight, uint16_t* quads) {
  for (int64_t j = 0; j < w.count; j += kQuad) {
    const QuadRows rows(w, j);
    for (int64_t column = 0; column < groups * kDotGroup; column += Weight::kColumns) {
      if (column % kDotGroup == 0) weight.begin(g + column / kDotGroup);
      __m512i bytes[2], pairs[2];
      rows.load(column * Weight::kBytes, bytes);
      for (int i = 0; i < Weight::kColumns / 16; ++i, quads += 64) {
        weight.convert(bytes, i, pairs);
        _mm512_storeu_si512(quads, pairs[0]);
        _mm512_storeu_si512(quads + 32, pairs[1]);
      }
    }
  }
}

template <int R, int P>
void packed_tile(const GroupedRows& x, int64_t i, const uint16_t* quads, int64_t j, int64_t groups,
                 const QuarterSums& c) {
  const int64_t stride = groups * kQuadGroup;
  const uint16_t* const base = quads + j / kQuad * stride;
  const TilePlace at(x, i, j, c);
  add_groups<R, P>(
      at, groups, [&](int64_t g, const uint16_t* left, Tile<R, P>& sum) __attribute__((always_inline)) {
        const uint16_t* right_at = base + g * kQuadGroup;
        for (int64_t column = 0; column < kDotGroup; column += 16, right_at += 64) {
          __m512i right[P][2];
          each<P>([&](auto p) __attribute__((always_inline)) {
            right[p][0] = _mm512_loadu_si512(right_at + p * stride);
            right[p][1] = _mm512_loadu_si512(right_at + p * stride + 32);
          });
          add_columns<R, P>(left + column, at.x_stride, right, sum);
        }
      });
}

// Tiles of the first height named as long as they fit, then of the next.
template <int P, int... heights>
void packed_strip(const GroupedRows& x, const uint16_t* quads, int64_t j, int64_t groups,
                  const QuarterSums& c) {
  int64_t i = 0;
  const auto tiles_of = [&](auto height) {
    for (; i + height <= x.count; i += height) packed_tile<height, P>(x, i, quads, j, groups, c);
  };
  (tiles_of(std::integral_constant<int, heights>()), ...);
}

void packed_dots(const GroupedRows& x, const uint16_t* quads, int64_t rows, int64_t groups,
                 const QuarterSums& c) {
  int64_t j = 0;
  for (; j + 4 * kQuad <= rows; j += 4 * kQuad) packed_strip<4, 5, 4, 3, 2, 1>(x, quads, j, groups, c);
  for (; j + 2 * kQuad <= rows; j += 2 * kQuad) packed_strip<2, 8, 4, 2, 1>(x, quads, j, groups, c);
  for (; j < rows; j += kQuad) packed_strip<1, 8, 4, 2, 1>(x, quads, j, groups, c);
}

// As much of the weight at a time as the first cache holds beside some rows of x.
constexpr int64_t kPackedRows = 16, kPackedGroups = 4;

template <class Weight>
void packed_parts(const GroupedRows& x, const WeightRows& w, int64_t groups, const Weight& weight,
                  const QuarterSums& c) {
  alignas(64) uint16_t quads[kPackedRows * kPackedGroups * kDotGroup];
  for (int64_t j = 0; j < w.count; j += kPackedRows) {
    const int64_t count = w.count - j < kPackedRows ? w.count - j : kPackedRows;
    for (int64_t g = 0; g < groups; g += kPackedGroups) {
      const int64_t some = groups - g < kPackedGroups ? groups - g : kPackedGroups;
      WeightRows rows = w;
      rows.base += j * w.stride + g * kDotGroup * Weight::kBytes;
      rows.count = count;
      pack_with(rows, g, some, weight, quads);
      packed_dots(groups_from(x, g), quads, count, some, sums_from(c, x, j, g));
    }
  }
}

template <class Weight>
void dots_with(const GroupedRows& x, const WeightRows& w, int64_t groups, const Weight& weight,
               const QuarterSums& c) {
  constexpr int64_t kFewRows = 8;
  if (x.count <= kFewRows)
    stored_dots(x, w, groups, weight, c);
  else
    packed_parts(x, w, groups, weight, c);
}

void dots(const GroupedRows& x, const WeightRows& w, int64_t groups, const QuarterSums& c) {
  if (!w.coded) return dots_with(x, w, groups, Halves(), c);
  if (w.scales == nullptr) return dots_with(x, w, groups, Codes(), c);
  for (int64_t g = 0; g < groups; g += kMostTables) {
    const int64_t some = groups - g < kMostTables ? groups - g : kMostTables;
    WeightRows codes = w;
    codes.base += g * kDotGroup;
    if (w.next != nullptr) codes.next += g * kDotGroup;
    dots_with(groups_from(x, g), codes, some, ScaledCodes(w.scales + g, some), sums_from(c, x, 0, g));
  }
}

// (q0 + q2) + (q1 + q3) of each row of two quads: the sums of the first in the lower half of each part, of the second in
// the upper.
inline __m512 halves_of(__m512 a, __m512 b) {
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
}

// Four quads at once.
void sum_quarters(const float* quarters, int64_t stride, int64_t count, float* sums) {
  const __m512i order = _mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0);
  int64_t j = 0;
  for (; j + 16 <= count; j += 16, quarters += 4 * stride) {
    const __m512 a = halves_of(_mm512_loadu_ps(quarters), _mm512_loadu_ps(quarters + stride));
    const __m512 b =
        halves_of(_mm512_loadu_ps(quarters + 2 * stride), _mm512_loadu_ps(quarters + 3 * stride));
    // Part q: the sums of row q of the four quads.
    const __m512 all = _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xDD));
    _mm512_storeu_ps(sums + j, _mm512_permutexvar_ps(order, all));
  }
  ::sum_quarters(quarters, stride, count - j, sums + j);
}

}  // namespace dots_in_registers
}  // namespace
