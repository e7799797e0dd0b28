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

// The 32 pairs of a piece of codes.
inline __attribute__((always_inline)) void pack_codes(const Piece& piece, const Decoder& decoder,
                                                      uint32_t* to) {
#pragma GCC unroll 4
  for (int byte = 0; byte < kPieceBytes; byte += 16) {
    const PairsOfCodes codes(piece, byte);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      uint32_t* const at = to + (byte / 2 + 2 * i) * kPanel;
      const __m512i low = decoder.lows(codes.pairs[i]), high = decoder.highs(codes.pairs[i]);
      _mm512_storeu_si512(at, _mm512_unpacklo_epi8(low, high));
      _mm512_storeu_si512(at + kPanel, _mm512_unpackhi_epi8(low, high));
    }
  }
}

void pack_e4m3(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel) {
  const Decoder decoder;
  pack_pieces<32>(
      base, stride, lanes, width,
      panel, [&](const Piece& piece, uint32_t* to) __attribute__((always_inline)) {
        pack_codes(piece, decoder, to);
      });
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
inline Decoder scaled_decoder(float scale) {
  alignas(64) uint8_t codes[128];
  for (int code = 0; code < 128; ++code) codes[code] = static_cast<uint8_t>(code);
  alignas(64) uint16_t table[128];
  ::widen_e4m3(codes, 128, scale, table);
  return Decoder(table);
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
