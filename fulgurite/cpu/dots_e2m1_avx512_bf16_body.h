// Dot products of rows of e2m1 by VDPBF16PS, after dots_e2m1_body.h and dots_avx512_bf16_body.h. Sixteen bytes of
// four rows are a register: shifted by 0, 4, 8 and 12 bits its words look up eight columns of each row. No #pragma
// once: it is a body.

#include <immintrin.h>

namespace {
namespace dots_in_registers {

// All codes as bf16, twice: a look-up takes five bits of a word.
inline __m512i e2m1_table() {
  const __m256i once = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kE2m1));
  return _mm512_broadcast_i64x4(once);
}

// The columns 4 i + shift of a block of each row.
template <int shift>
inline __attribute__((always_inline)) __m512i widened(__m512i bytes, __m512i table) {
  const __m512i words = shift == 0 ? bytes : _mm512_srli_epi16(bytes, 4 * shift);
  return _mm512_permutexvar_epi16(words, table);
}

void widen_e2m1(const uint8_t* pairs, int64_t blocks, uint16_t* out) {
  const __m512i table = e2m1_table();
  for (int64_t b = 0; b < blocks; ++b, pairs += kFp4Block / 2, out += kFp4Block) {
    // Word i of part s is word i, shifted.
    const __m512i all = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(pairs)));
    const __m512i shifts = _mm512_set_epi64(0x000C000C000C000C, 0x000C000C000C000C, 0x0008000800080008,
                                            0x0008000800080008, 0x0004000400040004, 0x0004000400040004, 0, 0);
    _mm512_storeu_si512(out, _mm512_permutexvar_epi16(_mm512_srlv_epi16(all, shifts), table));
  }
}

// The scales of a group of four rows.
template <bool halves>
struct QuadScales {
  __m512i bytes;

  __attribute__((always_inline))
  QuadScales(const E2m1Rows& w, const uint8_t* const (&row)[kQuad], int64_t g) {
    constexpr int64_t kBytes = halves ? 8 : 4;
    const auto of = [&](int l) __attribute__((always_inline)) {
      std::conditional_t<halves, int64_t, int32_t> some;
      std::memcpy(&some, row[l] + g * kBytes, sizeof some);
      return some;
    };
    if constexpr (halves)
      bytes = _mm512_castsi256_si512(_mm256_set_epi64x(of(3), of(2), of(1), of(0)));
    else
      bytes = _mm512_castsi128_si512(_mm_set_epi32(of(3), of(2), of(1), of(0)));
    static_cast<void>(w);
  }

  // Of block b, a scale for each lane of each row.
  template <int b>
  __attribute__((always_inline)) __m512 block(__m512 global) const {
    if constexpr (halves) {
      const __m512i places = _mm512_set_epi32(25, 25, 24, 24, 17, 17, 16, 16, 9, 9, 8, 8, 1, 1, 0, 0);
      constexpr __mmask64 kLowest = 0x1111111111111111u;
      const __m512i at = _mm512_add_epi32(places, _mm512_set1_epi32(2 * b));
      const __m512i codes = _mm512_maskz_permutexvar_epi8(kLowest, at, bytes);
      return _mm512_mul_ps(reinterpret_cast<__m512>(code_values(reinterpret_cast<Words>(codes))), global);
    } else {
      // The byte is the exponent: in the highest byte of a word, one bit too far up.
      const __m512i places = _mm512_set_epi32(12, 12, 12, 12, 8, 8, 8, 8, 4, 4, 4, 4, 0, 0, 0, 0);
      constexpr __mmask64 kHighest = 0x8888888888888888u;
      const __m512i at = _mm512_slli_epi32(_mm512_add_epi32(places, _mm512_set1_epi32(b)), 24);
      const __m512i power = _mm512_srli_epi32(_mm512_maskz_permutexvar_epi8(kHighest, at, bytes), 1);
      const __mmask16 least = _mm512_testn_epi32_mask(power, power);
      const __m512i nan = _mm512_set1_epi32(0x7F800000);
      const __m512i some = _mm512_mask_mov_epi32(power, least, _mm512_set1_epi32(0x00400000));
      return _mm512_castsi512_ps(
          _mm512_mask_mov_epi32(some, _mm512_cmpeq_epi32_mask(power, nan), _mm512_set1_epi32(0x7FC00000)));
    }
  }
};

// Where the sums of a tile go.
struct Fp4Place {
  const uint16_t* x;
  int64_t x_group, x_stride, x_count;
  float* sums;
  int64_t sums_stride;
  const float* x_factors;

  Fp4Place(const GroupedRows& rows, int64_t i, int64_t j, const QuarterSums& c)
      : x(rows.base + i * rows.row_stride),
        x_group(rows.group_stride),
        x_stride(rows.row_stride),
        x_count(rows.count),
        sums(c.base + 16 * (j / kQuad * c.stride + i)),
        sums_stride(16 * c.stride),
        x_factors(c.x_factors + i) {}
};

// sum += eight columns at x with a register of each quad.
template <int R, int P>
inline __attribute__((always_inline)) void add_eight(const uint16_t* x, int64_t x_stride,
                                                     const __m512i (&right)[P], Tile<R, P>& sum) {
  each<R>([&](auto r) __attribute__((always_inline)) {
    const __m512bh left = for_all_rows(x + r * x_stride);
    each<P>([&](auto p) __attribute__((always_inline)) {
      sum[r][p] = _mm512_dpbf16_ps(sum[r][p], reinterpret_cast<__m512bh>(right[p]), left);
    });
  });
}

// One block: right_of(shift) gives the weight, scale_of(quad) its scales.
template <int R, int P, class Right, class Scale>
inline __attribute__((always_inline)) void add_block(const Fp4Place& at, int64_t g, int64_t b,
                                                     const Right& right_of, const Scale& scale_of) {
  const uint16_t* const x = at.x + g * at.x_group + b * kFp4Block;
  Tile<R, P> sum;
  each<R * P>([&](auto n) __attribute__((always_inline)) { sum[n / P][n % P] = _mm512_setzero_ps(); });
  each<kFp4Shifts>([&](auto s) __attribute__((always_inline)) {
    __m512i right[P];
    right_of(s, right);
    add_eight<R, P>(x + s * kFp4Words, at.x_stride, right, sum);
  });
  each<P>([&](auto p) __attribute__((always_inline)) {
    const __m512 scale = scale_of(p);
    each<R>([&](auto r) __attribute__((always_inline)) {
      float* const there = at.sums + p * at.sums_stride + 16 * r;
      const __m512 factor = _mm512_mul_ps(scale, _mm512_set1_ps(at.x_factors[g * at.x_count + r]));
      _mm512_storeu_ps(there, _mm512_fmadd_ps(sum[r][p], factor, _mm512_loadu_ps(there)));
    });
  });
}

// Rows [j, j + 4 P) as they are stored with all R rows of x.
template <bool halves, int R, int P>
void e2m1_tile(const GroupedRows& x, const E2m1Rows& w, int64_t j, int64_t groups, const QuarterSums& c) {
  const WeightRows codes{w.base, w.stride, w.count};
  const auto quads = quads_of(codes, j, std::make_integer_sequence<int, P>());
  const uint8_t* scale_rows[P][kQuad];
  for (int p = 0; p < P; ++p)
    for (int l = 0; l < kQuad; ++l) scale_rows[p][l] = scales_of(w, j + p * kQuad + l);
  const int64_t ahead = j + P * kQuad < w.count ? P * kQuad * w.stride
                        : w.next != nullptr     ? w.next - row_of(codes, j)
                                                : 0;
  const __m512i table = e2m1_table();
  const __m512 global = _mm512_set1_ps(w.global);
  const Fp4Place at(x, 0, j, c);
  for (int64_t g = 0; g < groups; ++g) {
    const auto scales = [&]<int... p>(std::integer_sequence<int, p...>) __attribute__((always_inline)) {
      return std::array<QuadScales<halves>, P>{QuadScales<halves>(w, scale_rows[p], g)...};
    }
    (std::make_integer_sequence<int, P>());
    if (ahead != 0)
      each<P>([&](auto p) __attribute__((always_inline)) {
        for (int l = 0; l < kQuad; ++l) __builtin_prefetch(quads[p].row[l] + ahead + g * kDotGroup / 2, 0, 2);
      });
    each<2>([&](auto half) __attribute__((always_inline)) {
      __m512i bytes[P][2];
      each<P>([&](auto p) __attribute__((always_inline)) {
        quads[p].load(g * kDotGroup / 2 + half * kFp4Block, bytes[p]);
      });
      each<2>([&](auto i) __attribute__((always_inline)) {
        constexpr int b = 2 * decltype(half)::value + decltype(i)::value;
        add_block<R, P>(
            at, g, b,
            [&](auto s, __m512i(&right)[P]) __attribute__((always_inline)) {
              each<P>([&](auto p) __attribute__((always_inline)) {
                right[p] = widened<decltype(s)::value>(bytes[p][i], table);
              });
            },
            [&](auto p) __attribute__((always_inline)) { return scales[p].template block<b>(global); });
      });
    });
  }
}

template <bool halves, int P>
void e2m1_strip(const GroupedRows& x, const E2m1Rows& w, int64_t j, int64_t groups, const QuarterSums& c) {
  pairs_in_registers::with_constant<P <= 2 ? 8 : 4>(
      x.count, [&](auto height) { e2m1_tile<halves, height, P>(x, w, j, groups, c); });
}

template <bool halves>
void stored_e2m1_dots(const GroupedRows& x, const E2m1Rows& w, int64_t groups, const QuarterSums& c) {
  int64_t j = 0;
  if (x.count <= 4)
    for (; j + 4 * kQuad <= w.count; j += 4 * kQuad) e2m1_strip<halves, 4>(x, w, j, groups, c);
  for (; j + 2 * kQuad <= w.count; j += 2 * kQuad) e2m1_strip<halves, 2>(x, w, j, groups, c);
  for (; j < w.count; j += kQuad) e2m1_strip<halves, 1>(x, w, j, groups, c);
}

// --- packed quads ---

// Some rows' groups as bf16, quad by quad, and the scale of each lane of each block.
struct PackedFp4 {
  alignas(64) uint16_t values[kPackedRows * kPackedGroups * kDotGroup];
  alignas(64) float scales[kPackedRows / kQuad * kPackedGroups * kFp4Blocks * kLanes];

  template <bool halves>
  void pack(const E2m1Rows& w, int64_t j, int64_t count, int64_t g, int64_t groups) {
    const WeightRows codes{w.base, w.stride, w.count};
    const __m512i table = e2m1_table();
    const __m512 global = _mm512_set1_ps(w.global);
    uint16_t* to = values;
    float* scale_to = scales;
    for (int64_t row = j; row < j + count; row += kQuad) {
      const QuadRows rows(codes, row);
      const uint8_t* scale_rows[kQuad];
      for (int l = 0; l < kQuad; ++l) scale_rows[l] = scales_of(w, row + l);
      for (int64_t group = g; group < g + groups; ++group) {
        const QuadScales<halves> own(w, scale_rows, group);
        each<2>([&](auto half) __attribute__((always_inline)) {
          __m512i bytes[2];
          rows.load(group * kDotGroup / 2 + half * kFp4Block, bytes);
          each<2>([&](auto i) __attribute__((always_inline)) {
            each<kFp4Shifts>([&](auto s) __attribute__((always_inline)) {
              _mm512_store_si512(to + s * kQuadBlock / kFp4Shifts,
                                 widened<decltype(s)::value>(bytes[i], table));
            });
            _mm512_store_ps(scale_to,
                            own.template block<2 * decltype(half)::value + decltype(i)::value>(global));
            to += kQuadBlock;
            scale_to += kLanes;
          });
        });
      }
    }
  }
};

template <int R, int P>
void packed_e2m1_tile(const GroupedRows& x, int64_t i, const PackedFp4& packed, int64_t quad, int64_t groups,
                      const QuarterSums& c) {
  const int64_t stride = groups * kQuadGroup, scale_stride = groups * kFp4Blocks * kLanes;
  const uint16_t* const values = packed.values + quad * stride;
  const float* const scales = packed.scales + quad * scale_stride;
  const Fp4Place at(x, i, quad * kQuad, c);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t b = 0; b < kFp4Blocks; ++b) {
      const int64_t block = g * kFp4Blocks + b;
      add_block<R, P>(
          at, g, b,
          [&](auto s, __m512i(&right)[P]) __attribute__((always_inline)) {
            each<P>([&](auto p) __attribute__((always_inline)) {
              right[p] =
                  _mm512_load_si512(values + p * stride + block * kQuadBlock + s * kQuadBlock / kFp4Shifts);
            });
          },
          [&](auto p) __attribute__((always_inline)) {
            return _mm512_load_ps(scales + p * scale_stride + block * kLanes);
          });
    }
  }
}

template <int P, int... heights>
void packed_e2m1_strip(const GroupedRows& x, const PackedFp4& packed, int64_t quad, int64_t groups,
                       const QuarterSums& c) {
  int64_t i = 0;
  const auto tiles_of = [&](auto height) {
    for (; i + height <= x.count; i += height) packed_e2m1_tile<height, P>(x, i, packed, quad, groups, c);
  };
  (tiles_of(std::integral_constant<int, heights>()), ...);
}

template <bool halves>
void packed_e2m1_dots(const GroupedRows& x, const E2m1Rows& w, int64_t groups, const QuarterSums& c) {
  PackedFp4 packed;
  for (int64_t j = 0; j < w.count; j += kPackedRows) {
    const int64_t count = w.count - j < kPackedRows ? w.count - j : kPackedRows;
    for (int64_t g = 0; g < groups; g += kPackedGroups) {
      const int64_t some = groups - g < kPackedGroups ? groups - g : kPackedGroups;
      packed.pack<halves>(w, j, count, g, some);
      const GroupedRows left = groups_from(x, g);
      QuarterSums sums = c;
      sums.base += 16 * (j / kQuad * c.stride);
      sums.x_factors += g * x.count;
      int64_t quad = 0;
      const int64_t quads = (count + kQuad - 1) / kQuad;
      for (; quad + 4 <= quads; quad += 4)
        packed_e2m1_strip<4, 5, 4, 3, 2, 1>(left, packed, quad, some, sums);
      for (; quad + 2 <= quads; quad += 2) packed_e2m1_strip<2, 8, 4, 2, 1>(left, packed, quad, some, sums);
      for (; quad < quads; ++quad) packed_e2m1_strip<1, 8, 4, 2, 1>(left, packed, quad, some, sums);
    }
  }
}

void dots_e2m1(const GroupedRows& x, const E2m1Rows& w, int64_t groups, const QuarterSums& c) {
  constexpr int64_t kFewRows = 8;
  if (x.count <= kFewRows)
    return w.halves ? stored_e2m1_dots<true>(x, w, groups, c) : stored_e2m1_dots<false>(x, w, groups, c);
  return w.halves ? packed_e2m1_dots<true>(x, w, groups, c) : packed_e2m1_dots<false>(x, w, groups, c);
}

}  // namespace dots_in_registers
}  // namespace
