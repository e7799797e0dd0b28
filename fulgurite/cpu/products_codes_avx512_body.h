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

// --- lanes are rows of codes ---

// Asks for line n of sixteen rows of codes, two lines a row. (Inlined always, and what calls it too: see
// cpu/prefetch.h.)
inline __attribute__((always_inline)) void ask_for(const CodeRows& b, int64_t n) {
  __builtin_prefetch(b.base + b.ahead + n / 2 * b.stride + n % 2 * kLine, 0, 3);
}

// One panel, `width` a multiple of 16.
template <int R, class A>
void panel_products(const A& a, const CodeRows& b, int64_t width, const Decoder& in_memory,
                    const Place& place) {
  const Decoder decoder = in_memory;
  panels_in_registers::Piece piece(b.base, b.stride);
  pairs_in_registers::Tile<R, 1> sum;
  pairs_in_registers::begin<R, 1>(place, sum);
  for (int64_t column = 0; column < width; column += 16) {
    if (b.ahead != 0) each<4>([&](auto i) __attribute__((always_inline)) { ask_for(b, column / 4 + i); });
    const panels_in_registers::PairsOfCodes codes(piece, static_cast<int>(column));
    each<4>([&](auto i) __attribute__((always_inline)) {
      const __m512i low = decoder.lows(codes.pairs[i]), high = decoder.highs(codes.pairs[i]);
      const __m512i even[1] = {_mm512_unpacklo_epi8(low, high)}, odd[1] = {_mm512_unpackhi_epi8(low, high)};
      add_products<R, 1>(a, column / 2 + 2 * i, even, sum);
      add_products<R, 1>(a, column / 2 + 2 * i + 1, odd, sum);
    });
  }
  pairs_in_registers::finish<R, 1>(place, sum);
}

// --- lanes are columns of codes ---

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
  switch (a.count) {
    case 1:
      return with(std::integral_constant<int, 1>());
    case 2:
      return with(std::integral_constant<int, 2>());
    case 3:
      return with(std::integral_constant<int, 3>());
    case 4:
      return with(std::integral_constant<int, 4>());
    case 5:
      return with(std::integral_constant<int, 5>());
    case 6:
      return with(std::integral_constant<int, 6>());
    case 7:
      return with(std::integral_constant<int, 7>());
    case 8:
      return with(std::integral_constant<int, 8>());
  }
}

// Have all lanes the same scale, one of which a table can be made?
bool one_table(const float* scale, int64_t lanes) {
  if (scale == nullptr) return true;
  for (int64_t l = 1; l < lanes; ++l)
    if (std::memcmp(&scale[l], &scale[0], sizeof(float)) != 0) return false;
  return panels_in_registers::Scales(scale, 1).are_moderate;
}

Decoder decoder_of(const float* scale) {
  return scale == nullptr ? Decoder() : panels_in_registers::scaled_decoder(_mm512_set1_ps(*scale));
}

constexpr auto packed_products =
    ::products_e4m3<panels_in_registers::pack_e4m3, panels_in_registers::pack_scaled,
                    pairs_in_registers::products>;

void products_e4m3(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t width, const float* scale,
                   const Sums& c) {
  const int64_t whole = lanes / kPanel * kPanel;
  if (a.count < 1 || a.count > kMostRows || width % 16 != 0 || whole == 0 || !one_table(scale, whole))
    return packed_products(a, b, lanes, width, scale, c);
  const Decoder decoder = decoder_of(scale);
  CodeRows codes = b;
  for (int64_t l = 0; l < whole; l += kPanel, codes.base += kPanel * b.stride)
    with_rows(a, [&](const auto& rows, auto height) {
      panel_products<height>(rows, codes, width, decoder, Place(c, 0, l / kPanel));
    });
  if (whole < lanes)
    packed_products(a, codes, lanes - whole, width, scale == nullptr ? nullptr : scale + whole,
                    from_panel(c, whole / kPanel));
}

constexpr auto packed_columns =
    ::products_columns<panels_in_registers::widen_e4m3, pairs_in_registers::products>;

void products_columns(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t rows, float scale,
                      const Sums& c) {
  const int64_t whole = lanes / 32 * 32;
  if (a.count < 1 || a.count > kMostRows || rows % 2 != 0 || whole == 0 || !one_table(&scale, 1))
    return packed_columns(a, b, lanes, rows, scale, c);
  const Decoder decoder = decoder_of(&scale);
  for (int64_t strip = 0; strip < whole / 32; ++strip)
    with_rows(a, [&](const auto& these, auto height) {
      column_products<height>(these, b, strip, rows, decoder, Place(c, 0, 2 * strip));
    });
  if (whole < lanes)
    packed_columns(a, {b.base + whole, b.stride}, lanes - whole, rows, scale, from_panel(c, whole / kPanel));
}

}  // namespace codes_in_registers
}  // namespace
