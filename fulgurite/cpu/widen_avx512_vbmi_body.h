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

}  // namespace panels_in_registers
}  // namespace
