// Packing of panels with look-ups of bytes, for the kernels_*.cpp whose instruction set has them. Sixteen
// rows of 64 bytes are taken at a time: loads of 16 bytes put rows 4q..4q+3 into 128-bit part q of registers,
// two rounds of unpacking transpose inside the parts. What is missing of a piece (rows, columns) is read from
// a copy padded with zeros. No #pragma once: it is a body.

#include <immintrin.h>

namespace {
namespace panels_in_registers {

constexpr int64_t kPieceBytes = 64;  // of each row

// Sixteen rows, from where on the next piece is read: rows 0..3, and the way to the fourth and twelfth after.
struct Piece {
  const uint8_t* row[4];
  int64_t four, twelve;

  Piece(const uint8_t* base, int64_t stride) : four(4 * stride), twelve(12 * stride) {
    for (int i = 0; i < 4; ++i) row[i] = base + i * stride;
  }
  void advance() {
    for (const uint8_t*& at : row) at += kPieceBytes;
  }
};

// 64 bytes of up to sixteen rows, zeros beyond.
struct Padded {
  alignas(64) uint8_t bytes[kPanel * kPieceBytes];
  Padded(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width) {
    std::memset(bytes, 0, sizeof bytes);
    for (int64_t l = 0; l < lanes; ++l)
      std::memcpy(bytes + l * kPieceBytes, base + l * stride, static_cast<size_t>(width));
  }
  Piece piece() const { return {bytes, kPieceBytes}; }
};

// Bytes [byte, byte + 16) of rows i, i + 4, i + 8, i + 12.
inline __m512i quarter_rows(const Piece& piece, int i, int byte) {
  const uint8_t* const first = piece.row[i] + byte;
  const auto at = [](const uint8_t* from) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)); };
  __m512i rows = _mm512_castsi128_si512(at(first));
  rows = _mm512_inserti32x4(rows, at(first + piece.four), 1);
  rows = _mm512_inserti32x4(rows, at(first + 2 * piece.four), 2);
  return _mm512_inserti32x4(rows, at(first + piece.twelve), 3);
}

// Packs rows of `bytes` bytes piece by piece: pack_piece(piece, to) writes a piece's `pairs` pairs.
template <int pairs, class PackPiece>
inline __attribute__((always_inline)) void pack_pieces(const uint8_t* base, int64_t stride, int64_t lanes,
                                                       int64_t bytes, uint32_t* to,
                                                       const PackPiece& pack_piece) {
  int64_t first = 0;
  if (lanes == kPanel) {
    Piece piece(base, stride);
    for (; first + kPieceBytes <= bytes; first += kPieceBytes, to += pairs * kPanel) {
      pack_piece(piece, to);
      piece.advance();
    }
  }
  constexpr int64_t kPairBytes = kPieceBytes / pairs;
  for (; first < bytes; first += kPieceBytes, to += pairs * kPanel) {
    const int64_t rest = bytes - first < kPieceBytes ? bytes - first : kPieceBytes;
    const Padded copy(base + first, stride, lanes, rest);
    if (rest == kPieceBytes) {
      pack_piece(copy.piece(), to);
    } else {
      alignas(64) uint32_t packed[pairs * kPanel];
      pack_piece(copy.piece(), packed);
      const int64_t count = (rest + kPairBytes - 1) / kPairBytes;
      std::memcpy(to, packed, static_cast<size_t>(count * kPanel) * sizeof(uint32_t));
    }
  }
}

// --- e4m3 ---

// bf16(code) of the 128 codes without a sign, and its bytes.
struct CodeTable {
  alignas(64) uint16_t values[128];
  alignas(64) uint8_t low[128];
  alignas(64) uint8_t high[128];
  constexpr CodeTable() : values(), low(), high() {
    for (int code = 0; code < 128; ++code) {
      int value = code * 16 + (120 << 7);
      if (code < 8) {  // subnormal: code * 2^-9
        const int top = code >= 4 ? 2 : code >= 2 ? 1 : 0;
        value = (127 - 9 + top) << 7 | ((code << (7 - top)) & 0x7F);
      }
      values[code] = static_cast<uint16_t>(code == 0 ? 0 : code == 0x7F ? 0x7FC0 : value);
      low[code] = static_cast<uint8_t>(values[code]);
      high[code] = static_cast<uint8_t>(values[code] >> 8);
    }
  }
};
constexpr CodeTable kCodes;

// Looks up both bytes of what a code stands for.
class Decoder {
 public:
  // `table`: of the 128 codes without a sign.
  explicit Decoder(const uint16_t* table) {
    alignas(64) uint8_t even[64], odd[64];
    for (int i = 0; i < 64; ++i) {
      even[i] = static_cast<uint8_t>(2 * i);
      odd[i] = static_cast<uint8_t>(2 * i + 1);
    }
    for (int half = 0; half < 2; ++half) {
      const __m512i first = _mm512_loadu_si512(table + 64 * half),
                    second = _mm512_loadu_si512(table + 64 * half + 32);
      low_[half] = _mm512_permutex2var_epi8(first, _mm512_load_si512(even), second);
      high_[half] = _mm512_permutex2var_epi8(first, _mm512_load_si512(odd), second);
    }
  }
  Decoder() {
    for (int half = 0; half < 2; ++half) {
      low_[half] = _mm512_load_si512(kCodes.low + 64 * half);
      high_[half] = _mm512_load_si512(kCodes.high + 64 * half);
    }
  }

  // The bytes of 64 codes, low and high.
  __m512i lows(__m512i codes) const { return _mm512_permutex2var_epi8(low_[0], codes, low_[1]); }
  __m512i highs(__m512i codes) const {
    constexpr int kAndXor = 0x6A;  // (a & b) ^ c
    return _mm512_ternarylogic_epi32(codes, _mm512_set1_epi8(static_cast<char>(0x80)),
                                     _mm512_permutex2var_epi8(high_[0], codes, high_[1]), kAndXor);
  }

 private:
  __m512i low_[2], high_[2];
};

// Pairs of codes of columns [byte, byte + 16) of sixteen rows: register i has pairs 2i and 2i + 1, in the
// lower and the upper eight bytes of each part.
struct PairsOfCodes {
  __m512i pairs[4];

  __attribute__((always_inline)) PairsOfCodes(const Piece& piece, int byte) {
    const __m512i r0 = quarter_rows(piece, 0, byte), r1 = quarter_rows(piece, 1, byte);
    const __m512i r2 = quarter_rows(piece, 2, byte), r3 = quarter_rows(piece, 3, byte);
    // Words (pairs of codes) of rows 0 and 1, of rows 2 and 3; then eight bytes are one pair of all four.
    const __m512i a[2] = {_mm512_unpacklo_epi16(r0, r1), _mm512_unpackhi_epi16(r0, r1)};
    const __m512i b[2] = {_mm512_unpacklo_epi16(r2, r3), _mm512_unpackhi_epi16(r2, r3)};
    for (int i = 0; i < 2; ++i) {
      pairs[2 * i] = _mm512_unpacklo_epi32(a[i], b[i]);
      pairs[2 * i + 1] = _mm512_unpackhi_epi32(a[i], b[i]);
    }
  }
};

// The 32 pairs of a piece of codes; convert() makes of sixteen lanes of bf16 pairs those that are stored.
template <class Convert>
inline __attribute__((always_inline)) void pack_codes(const Piece& piece, const Decoder& decoder,
                                                      uint32_t* to, const Convert& convert) {
#pragma GCC unroll 4
  for (int byte = 0; byte < kPieceBytes; byte += 16) {
    const PairsOfCodes codes(piece, byte);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      uint32_t* const at = to + (byte / 2 + 2 * i) * kPanel;
      const __m512i low = decoder.lows(codes.pairs[i]), high = decoder.highs(codes.pairs[i]);
      _mm512_storeu_si512(at, convert(_mm512_unpacklo_epi8(low, high)));
      _mm512_storeu_si512(at + kPanel, convert(_mm512_unpackhi_epi8(low, high)));
    }
  }
}

// Sixteen rows of codes.
struct Rows16 {
  const uint8_t* base;
  int64_t stride, lanes, width;
};

template <class Convert>
inline __attribute__((always_inline)) void pack_rows(const Rows16& rows, const Decoder& decoder,
                                                     uint32_t* panel, const Convert& convert) {
  pack_pieces<32>(
      rows.base, rows.stride, rows.lanes, rows.width,
      panel, [&](const Piece& piece, uint32_t* to) __attribute__((always_inline)) {
        pack_codes(piece, decoder, to, convert);
      });
}

void pack_table(const Rows16& rows, const Decoder& in_memory, uint32_t* panel) {
  const Decoder decoder = in_memory;  // in registers: stores could change what memory holds
  pack_rows(rows, decoder, panel, [](__m512i pairs) { return pairs; });
}

void pack_e4m3(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel) {
  pack_table({base, stride, lanes, width}, Decoder(), panel);
}

// --- e4m3 with scales ---

struct Scales {
  __m512 values;
  bool are_moderate;  // products with codes are normal numbers with room below, or zero
  bool are_short;     // products with codes have at most eight significant bits: bf16 holds them
  bool are_alike;

  Scales(const float* scale, int64_t lanes) {
    const auto present = static_cast<__mmask16>((1u << lanes) - 1u);
    values = _mm512_mask_loadu_ps(_mm512_set1_ps(lanes > 0 ? scale[0] : 1.0f), present, scale);
    const __m512i bits = _mm512_castps_si512(values);
    const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7FFFFFFF));
    are_moderate = _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32((127 - 100) << 23)) == 0 &&
                   _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32((127 + 100) << 23)) == 0;
    are_short = _mm512_test_epi32_mask(bits, _mm512_set1_epi32(0x000FFFFF)) == 0;
    are_alike = _mm512_cmpneq_epi32_mask(bits, _mm512_broadcastd_epi32(_mm512_castsi512_si128(bits))) == 0;
  }
};

inline __m512 firsts(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 seconds(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))));
}

// code * scale, rounded to odd: cut, and the last bit set where something was cut off. Rounding that to bf16
// rounds the product once.
inline __m512 odd_product(__m512 code, __m512 scale) {
  constexpr int kCut = _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC;
  const __m512 cut = _mm512_mul_round_ps(code, scale, kCut);
  const __m512 rest = _mm512_fmsub_ps(code, scale, cut);
  const __mmask16 inexact = _mm512_cmp_ps_mask(rest, _mm512_setzero_ps(), _CMP_NEQ_OQ);
  const __m512i bits = _mm512_castps_si512(cut);
  return _mm512_castsi512_ps(_mm512_mask_or_epi32(bits, inexact, bits, _mm512_set1_epi32(1)));
}

// Pairs of bf16 from normal numbers, zeros, infinities and NaN.
inline __m512i narrow_pairs(__m512 first, __m512 second, __m512i interleaving) {
  const __m512i halves = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  return _mm512_permutexvar_epi16(interleaving, halves);
}

// Words 0, 16, 1, 17, ...
inline __m512i interleaving_of_halves() {
  alignas(64) uint16_t order[32];
  for (uint16_t i = 0; i < 16; ++i) {
    order[2 * i] = i;
    order[2 * i + 1] = static_cast<uint16_t>(16 + i);
  }
  return _mm512_load_si512(order);
}

// The table of bf16(code * scale).
inline Decoder scaled_decoder(__m512 scale) {
  alignas(64) uint16_t table[128];
  for (int code = 0; code < 128; code += 16) {
    const __m256i halves = _mm256_load_si256(reinterpret_cast<const __m256i*>(kCodes.values + code));
    const __m512 value = firsts(_mm512_cvtepu16_epi32(halves));
    const __m256bh scaled = _mm512_cvtneps_pbh(odd_product(value, scale));
    std::memcpy(table + code, &scaled, sizeof scaled);
  }
  return Decoder(table);
}

// Where products with codes are exact in bf16.
void pack_exact(const Rows16& rows, __m512 scale, uint32_t* panel) {
  pack_rows(rows, Decoder(), panel, [scale](__m512i pairs) {
    const __m512i first = _mm512_castps_si512(_mm512_mul_ps(firsts(pairs), scale));
    const __m512i second = _mm512_castps_si512(_mm512_mul_ps(seconds(pairs), scale));
    return _mm512_mask_blend_epi16(0xAAAAAAAA, _mm512_srli_epi32(first, 16), second);
  });
}

void pack_rounded(const Rows16& rows, __m512 scale, uint32_t* panel) {
  const __m512i interleaving = interleaving_of_halves();
  pack_rows(rows, Decoder(), panel, [scale, interleaving](__m512i pairs) {
    return narrow_pairs(odd_product(firsts(pairs), scale), odd_product(seconds(pairs), scale), interleaving);
  });
}

void pack_scaled(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width, const float* scale,
                 uint32_t* panel) {
  const Scales scales(scale, lanes);
  const Rows16 rows{base, stride, lanes, width};
  if (!scales.are_moderate) return ::pack_scaled(base, stride, lanes, width, scale, panel);
  if (scales.are_alike) return pack_table(rows, scaled_decoder(scales.values), panel);
  if (scales.are_short) return pack_exact(rows, scales.values, panel);
  pack_rounded(rows, scales.values, panel);
}

// --- bf16 ---

void pack_bf16(const uint16_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel) {
  const auto transpose = [](const Piece& piece, uint32_t* to) __attribute__((always_inline)) {
#pragma GCC unroll 4
    for (int byte = 0; byte < kPieceBytes; byte += 16) {
      const __m512i r0 = quarter_rows(piece, 0, byte), r1 = quarter_rows(piece, 1, byte);
      const __m512i r2 = quarter_rows(piece, 2, byte), r3 = quarter_rows(piece, 3, byte);
      const __m512i a[2] = {_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1)};
      const __m512i b[2] = {_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3)};
      uint32_t* at = to + byte / 4 * kPanel;
      for (int i = 0; i < 2; ++i, at += 2 * kPanel) {
        _mm512_storeu_si512(at, _mm512_unpacklo_epi64(a[i], b[i]));
        _mm512_storeu_si512(at + kPanel, _mm512_unpackhi_epi64(a[i], b[i]));
      }
    }
  };
  pack_pieces<16>(reinterpret_cast<const uint8_t*>(base), stride * 2, lanes, width * 2, panel, transpose);
}

}  // namespace panels_in_registers
}  // namespace
