// Products with codes that are decoded in registers, after panels_avx512_vbmi_body.h and
// products_avx512_bf16_body.h: a panel is met by up to eight rows as it is made, and never stored. No #pragma
// once: it is a body.

#include <immintrin.h>

namespace {
namespace codes_in_registers {

using pairs_in_registers::each;
using pairs_in_registers::Place;
using panels_in_registers::Decoder;

constexpr int64_t kMostRows = 8;
constexpr int kLine = 64;

inline __m512bh pair_at(const uint16_t* at) {
  return pairs_in_registers::pair_everywhere(reinterpret_cast<const char*>(at));
}

// The next pairs of R rows with a panel's lanes.
template <int R>
struct Rows {
  const uint16_t* base;
  int64_t row_stride, pair_stride;

  explicit Rows(const PairRows& a) : base(a.base), row_stride(a.row_stride), pair_stride(a.pair_stride) {}
};

// Rows as OperandRows has them: addresses are one register and constants.
template <int R>
struct GroupRows {
  static constexpr int64_t row_stride = kMostWidth, pair_stride = 2;
  const uint16_t* base;

  explicit GroupRows(const PairRows& a) : base(a.base) {}
};
inline bool is_group(const PairRows& a) { return a.row_stride == kMostWidth && a.pair_stride == 2; }

// sum[r][p] += pair of row r * lanes, and on to the next pair.
template <int R, int P, class A>
inline __attribute__((always_inline)) void add_products(const A& a, int64_t pair, const __m512i (&lanes)[P],
                                                        pairs_in_registers::Tile<R, P>& sum) {
  each<R>([&](auto r) __attribute__((always_inline)) {
    const __m512bh row = pair_at(a.base + r * a.row_stride + pair * a.pair_stride);
    each<P>([&](auto p) __attribute__((always_inline)) {
      sum[r][p] = _mm512_dpbf16_ps(sum[r][p], reinterpret_cast<__m512bh>(lanes[p]), row);
    });
  });
}

// Columns of the first and of the second register by turns, as unpacking takes them from the parts: sixteen
// columns from the lower eight bytes of the parts, the others from the upper.
inline __m512i turns_of_columns() {
  alignas(64) uint8_t order[64];
  for (int i = 0; i < 64; ++i) {
    const int part = i / 16, byte = i % 16;                        // of what is looked up
    const int panel = byte / 8, column = part * 4 + byte % 8 / 2;  // low eight bytes: the first panel
    order[i] = static_cast<uint8_t>(panel * 16 + column + (byte % 2) * 64);
  }
  return _mm512_load_si512(order);
}

inline __m512i columns_at(const uint8_t* at) {
  return _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
}

// 32 columns: two panels. `rows` is even. `strip`: how many there were before, for what to ask for.
template <int R, class A>
void column_products(const A& a, const CodeRows& b, int64_t strip, int64_t rows, const Decoder& in_memory,
                     const Place& place) {
  const Decoder decoder = in_memory;
  const __m512i turns = turns_of_columns();
  pairs_in_registers::Tile<R, 2> sum;
  pairs_in_registers::begin<R, 2>(place, sum);
  const uint8_t* codes = b.base + strip * 32;
  const uint8_t* next = b.base + b.ahead + strip % 2 * b.stride + strip / 2 * kLine;
  for (int64_t pair = 0; pair < rows / 2; ++pair, codes += 2 * b.stride, next += 2 * b.stride) {
    if (b.ahead != 0) __builtin_prefetch(next, 0, 2);
    const __m512i both = _mm512_permutex2var_epi8(columns_at(codes), turns, columns_at(codes + b.stride));
    const __m512i low = decoder.lows(both), high = decoder.highs(both);
    const __m512i panels[2] = {_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)};
    add_products<R, 2>(a, pair, panels, sum);
  }
  pairs_in_registers::finish<R, 2>(place, sum);
}

// --- for any number of rows ---

// Calls body(rows, height) with a.count, at most eight, as a constant; `rows` is a Rows or a GroupRows.
template <class Body>
inline __attribute__((always_inline)) void with_rows(const PairRows& a, const Body& body) {
  const auto with = [&](auto height) __attribute__((always_inline)) {
    if (is_group(a))
      body(GroupRows<height>(a), height);
    else
      body(Rows<height>(a), height);
  };
  pairs_in_registers::with_constant<kMostRows>(a.count, with);
}

constexpr auto packed_columns =
    ::products_columns<panels_in_registers::widen_e4m3, pairs_in_registers::products>;

void products_columns(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t rows, float scale,
                      const Sums& c) {
  const int64_t whole = lanes / 32 * 32;
  if (a.count < 1 || a.count > kMostRows || rows % 2 != 0 || whole == 0)
    return packed_columns(a, b, lanes, rows, scale, c);
  const Decoder decoder = panels_in_registers::scaled_decoder(scale);
  for (int64_t strip = 0; strip < whole / 32; ++strip)
    with_rows(a, [&](const auto& these, auto height) {
      column_products<height>(these, b, strip, rows, decoder, Place(c, 0, 2 * strip));
    });
  if (whole < lanes)
    packed_columns(a, {b.base + whole, b.stride}, lanes - whole, rows, scale, from_panel(c, whole / kPanel));
}

}  // namespace codes_in_registers
}  // namespace
