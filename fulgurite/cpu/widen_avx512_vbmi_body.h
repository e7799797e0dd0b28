// Codes to bf16 with look-ups of bytes, after panels_avx512_vbmi_body.h. No #pragma once: it is a body.

#include <immintrin.h>

namespace {
namespace panels_in_registers {

// Times a power of two: the exponents move, of numbers that are not zero or NaN.
struct Exponents {
  __m512i step;
  explicit Exponents(int exponent) : step(_mm512_set1_epi16(static_cast<int16_t>(exponent * 128))) {}

  __m512i moved(__m512i halves) const {
    const __m512i magnitude = _mm512_and_si512(halves, _mm512_set1_epi16(0x7FFF));
    // Zero and 0x7FC0 alone are beyond this, unsigned, once one is subtracted.
    const __m512i less = _mm512_sub_epi16(magnitude, _mm512_set1_epi16(1));
    const __mmask32 numbers = _mm512_cmplt_epu16_mask(less, _mm512_set1_epi16(0x7FC0 - 1));
    return _mm512_mask_add_epi16(halves, numbers, halves, step);
  }
};

void widen_e4m3(const uint8_t* codes, int64_t count, float scale, uint16_t* out) {
  const uint32_t bits = same_bits<uint32_t>(scale);
  const int exponent = static_cast<int>(bits >> 23) - 127;
  // Other scales, and those with which a product could leave the range of normal numbers.
  if ((bits & 0x807FFFFFu) != 0 || exponent < -100 || exponent > 100)
    return ::widen_e4m3(codes, count, scale, out);
  const Decoder decoder;
  const Exponents exponents(exponent);
  // So that what unpacking takes from the parts of a register are the first 32 codes, then the others.
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
  int64_t i = 0;
  for (; i + kPieceBytes <= count; i += kPieceBytes) {
    const __m512i some = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes + i));
    const __m512i low = decoder.lows(some), high = decoder.highs(some);
    _mm512_storeu_si512(out + i, exponents.moved(_mm512_unpacklo_epi8(low, high)));
    _mm512_storeu_si512(out + i + 32, exponents.moved(_mm512_unpackhi_epi8(low, high)));
  }
  if (i < count) ::widen_e4m3(codes + i, count - i, scale, out + i);
}

// The exponent of a power of two with which products with codes are normal numbers; else one beyond it.
constexpr int kFarthest = 100;
inline int moderate_exponent(float scale) {
  const uint32_t bits = same_bits<uint32_t>(scale);
  return (bits & 0x807FFFFFu) != 0 ? kFarthest + 1 : static_cast<int>(bits >> 23) - 127;
}
inline bool is_moderate(int exponent) { return exponent >= -kFarthest && exponent <= kFarthest; }

// 64 codes of each row.
struct TwoPieces {
  const uint8_t* codes[2];
  uint16_t* out[2];
  uint32_t* pairs;
};

inline __attribute__((always_inline)) void widen_pieces(const TwoPieces& at, const Decoder& decoder,
                                                        const Exponents& first, const Exponents& second) {
  const __m512i order = _mm512_set_epi64(7, 3, 6, 2, 5, 1, 4, 0);
  const auto halves = [&](int row, const Exponents& exponents, __m512i* half) __attribute__((always_inline)) {
    const __m512i some = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(at.codes[row]));
    const __m512i low = decoder.lows(some), high = decoder.highs(some);
    half[0] = exponents.moved(_mm512_unpacklo_epi8(low, high));
    half[1] = exponents.moved(_mm512_unpackhi_epi8(low, high));
    _mm512_storeu_si512(at.out[row], half[0]);
    _mm512_storeu_si512(at.out[row] + 32, half[1]);
  };
  __m512i a[2], b[2];
  halves(0, first, a);
  halves(1, second, b);
  // Words 0, 32, 1, 33, ..., the second row's being counted from 32; then sixteen further.
  const __m512i low_half = _mm512_add_epi16(interleaving_of_halves(), _mm512_set1_epi32(16 << 16));
  const __m512i high_half = _mm512_add_epi16(low_half, _mm512_set1_epi16(16));
  for (int i = 0; i < 2; ++i) {
    _mm512_storeu_si512(at.pairs + 32 * i, _mm512_permutex2var_epi16(a[i], low_half, b[i]));
    _mm512_storeu_si512(at.pairs + 32 * i + 16, _mm512_permutex2var_epi16(a[i], high_half, b[i]));
  }
}

void widen_two(const ScaledCodes& first, const ScaledCodes& second, int64_t width, uint16_t* first_out,
               uint16_t* second_out, uint32_t* pairs) {
  bool usual = width % kPieceBytes == 0;
  for (int64_t group = 0; usual && group * kGroup < width; ++group)
    usual = is_moderate(moderate_exponent(scale_of(first, group))) &&
            is_moderate(moderate_exponent(scale_of(second, group)));
  if (!usual) return ::widen_two(first, second, width, first_out, second_out, pairs);
  const Decoder decoder;
  for (int64_t i = 0; i < width; i += kPieceBytes) {
    const Exponents a(moderate_exponent(scale_of(first, i / kGroup)));
    const Exponents b(moderate_exponent(scale_of(second, i / kGroup)));
    widen_pieces({{first.codes + i, second.codes + i}, {first_out + i, second_out + i}, pairs + i}, decoder,
                 a, b);
  }
}

}  // namespace panels_in_registers
}  // namespace
