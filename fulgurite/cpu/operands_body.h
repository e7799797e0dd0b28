// Operands of products: rounding to bf16 and fp16, codes to and from e4m3, panels; and sums over heads. Part of
// kernels_body.h. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kPanel = 16;  // lanes of a panel

// --- bf16 ---

inline uint16_t nearest_bf16(float value) {
  const uint32_t bits = same_bits<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>((bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x0040u : rounded);
}

inline Words nearest_bf16(Words bits) {
  const Words nearest = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7FFFFFFFu) > 0x7F800000u ? (bits >> 16) | 0x0040u : nearest;
}

void narrow_bf16(const float* values, int64_t count, uint16_t* out) {
  convert_all(values, count, out, [](Words bits) { return nearest_bf16(bits); });
}

void interleave(const uint16_t* __restrict first, const uint16_t* __restrict second, int64_t count,
                uint32_t* __restrict out) {
  for (int64_t i = 0; i < count; ++i) out[i] = first[i] | static_cast<uint32_t>(second[i]) << 16;
}

// --- fp16 ---

#if defined(__AVX512F__)

// The processor's own conversions: masked, so that a short last register is read and written as it is.
void decode_fp16(const uint16_t* values, int64_t count, float* out) {
  for (int64_t i = 0; i < count; i += kWidth) {
    const auto lanes = static_cast<__mmask16>(count - i >= kWidth ? 0xFFFFu : (1u << (count - i)) - 1u);
    _mm512_mask_storeu_ps(out + i, lanes, _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, values + i)));
  }
}

void narrow_fp16(const float* values, int64_t count, uint16_t* out) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  for (int64_t i = 0; i < count; i += kWidth) {
    const auto lanes = static_cast<__mmask16>(count - i >= kWidth ? 0xFFFFu : (1u << (count - i)) - 1u);
    const __m512 wide = _mm512_maskz_loadu_ps(lanes, values + i);
    _mm256_mask_storeu_epi16(out + i, lanes, _mm512_cvtps_ph(wide, kNearest));
  }
}

#else

// Denormals are made from a number of their step's exponent. (A plain loop: the compiler widens halves
// better than its own vector conversion does.)
void decode_fp16(const uint16_t* __restrict values, int64_t count, float* __restrict out) {
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = values[i] & 0x7FFFu, sign = (values[i] & 0x8000u) << 16;
    const uint32_t normal = (magnitude << 13) + (112u << 23);
    const float denormal = same_bits<float>((magnitude << 13) + (113u << 23)) - 0x1p-14f;
    const uint32_t quiet = magnitude > 0x7C00u ? 0x7FC00000u : 0x7F800000u;
    const uint32_t finite = magnitude < 0x0400u ? same_bits<uint32_t>(denormal) : normal;
    out[i] = same_bits<float>(sign | (magnitude >= 0x7C00u ? quiet | magnitude << 13 : finite));
  }
}

inline Words nearest_fp16(Words bits) {
  const Words magnitude = bits & 0x7FFFFFFFu, sign = (bits >> 16) & 0x8000u;
  // Beside 0.5 a step is 2^-24, that of fp16's denormals.
  const Words denormal = words(floats(magnitude) + 0.5f) - 0x3F000000u;
  const Words normal = ((magnitude + 0x0FFFu + ((magnitude >> 13) & 1u)) >> 13) - (112u << 10);
  const Words finite = magnitude < 0x38800000u ? denormal : normal;
  const Words number = magnitude >= 0x477FF000u ? Words{} + 0x7C00u : finite;
  return sign | (magnitude > 0x7F800000u ? 0x7E00u | ((magnitude >> 13) & 0x03FFu) : number);
}

void narrow_fp16(const float* values, int64_t count, uint16_t* out) {
  convert_all(values, count, out, [](Words bits) { return nearest_fp16(bits); });
}

#endif

// --- e4m3 to bf16 ---

// Subnormal codes are made from a number of their step's exponent. (Denormals on the way, as in magnitude <<
// 20 times 2^120, would cost many cycles each.)
inline Floats code_values(Words code) {
  const Words magnitude = code & 0x7Fu;
  const Words normal = (magnitude << 20) + (120u << 23);
  const Words subnormal = words(floats((magnitude << 20) + (121u << 23)) - 0x1p-6f);
  const Words number = magnitude < 8u ? subnormal : normal;
  const Words value = magnitude == 0x7Fu ? Words{} + 0x7FC00000u : number;
  return floats(value | ((code & 0x80u) << 24));
}

// A scale and its halves of at most twelve significant bits each: products with codes (four bits) are exact.
struct Scale {
  float whole, high, low;

  explicit Scale(float scale)
      : whole(scale), high(same_bits<float>(same_bits<uint32_t>(scale) & 0xFFFFF000u)), low(scale - high) {}

  // All products with codes are normal numbers, and what rounding leaves of them is a number too.
  bool is_moderate() const {
    const float magnitude = same_bits<float>(same_bits<uint32_t>(whole) & 0x7FFFFFFFu);
    return magnitude > 0x1p-100f && magnitude < 0x1p100f;
  }
  // Products with codes have at most eight significant bits: bf16 holds them.
  bool is_short() const { return (same_bits<uint32_t>(whole) & 0x000FFFFFu) == 0; }
};

inline Words exactly_scaled(Words codes, const Scale& scale) {
  return words(code_values(codes) * scale.whole) >> 16;
}

// bf16(code * scale): the fp32 product is moved to the odd neighbour where it is not exact, so that it is a
// tie of the second rounding only where the product is.
inline Words moderately_scaled(Words codes, const Scale& scale) {
  const Floats value = code_values(codes), nearest = value * scale.whole;
  const Floats rest = (value * scale.high - nearest) + value * scale.low;
  const Words bits = words(nearest), zero = {};
  const Words inexact = rest != 0.0f ? zero + 1u : zero;
  const Words away = (bits ^ words(rest)) >> 31;  // 1: the rest is towards zero
  const Words odd = bits + (inexact & ~bits) * (1u - 2u * away);
  return (odd + 0x7FFFu + ((odd >> 16) & 1u)) >> 16;
}

// The same of any scale: in double, where the product is exact.
inline uint16_t scaled_bf16(uint8_t code, float scale) {
  const double exact = static_cast<double>(code_values(Words{code})[0]) * static_cast<double>(scale);
  const auto nearest = static_cast<float>(exact);
  uint32_t bits = same_bits<uint32_t>(nearest);
  const double rest = exact - static_cast<double>(nearest);
  if ((rest > 0.0 || rest < 0.0) && (bits & 1u) == 0 && (bits & 0x7FFFFFFFu) < 0x7F800000u)
    bits += (rest > 0.0) == (exact > 0.0) ? 1u : ~0u;
  return nearest_bf16(same_bits<float>(bits));
}

void widen_e4m3(const uint8_t* codes, int64_t count, float factor, uint16_t* out) {
  const Scale scale(factor);
  if (!scale.is_moderate()) {
    for (int64_t i = 0; i < count; ++i) out[i] = scaled_bf16(codes[i], factor);
  } else if (scale.is_short()) {
    convert_all(codes, count, out, [&](Words some) { return exactly_scaled(some, scale); });
  } else {
    convert_all(codes, count, out, [&](Words some) { return moderately_scaled(some, scale); });
  }
}

// --- to e4m3 ---

// Codes of numbers that are already divided by the scale.
inline Words nearest_codes(Floats values) {
  const Words sign = (words(values) >> 24) & 0x80u;
  const Floats magnitude = floats(words(values) & 0x7FFFFFFFu);
  const Floats finite = magnitude < 448.0f ? magnitude : Floats{} + 448.0f;
  // Subnormal codes are multiples of 2^-9: adding 2^14 leaves them in the lowest bits, rounded.
  const Words small = words(finite + 0x1p14f) - same_bits<uint32_t>(0x1p14f), bits = words(finite);
  const Words normal = ((bits + 0x7FFFFu + ((bits >> 20) & 1u)) >> 20) - (120u << 3);
  return sign | (finite < 0x1p-6f ? small : normal);
}

// The largest magnitude's bits: magnitudes compare as integers; infinity and NaN are above every number.
inline uint32_t largest_magnitude(const float* x, int64_t count) {
  typedef int32_t Signed __attribute__((vector_size(kRegisterBytes)));
  Signed most = {};
  const auto meet = [&](Words bits) {
    const auto magnitude = reinterpret_cast<Signed>(bits & 0x7FFFFFFFu);
    most = magnitude > most ? magnitude : most;
  };
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) meet(words(load(x + i)));
  if (i < count) {
    Floats rest = {};
    std::memcpy(&rest, x + i, static_cast<size_t>(count - i) * sizeof(float));
    meet(words(rest));
  }
  int32_t largest = 0;
  for (int l = 0; l < kWidth; ++l) largest = most[l] > largest ? most[l] : largest;
  return static_cast<uint32_t>(largest);
}

using fulgurite::ScaleRounding;

float quantize_e4m3(const float* x, int64_t count, ScaleRounding rounding, uint8_t* codes) {
  constexpr float kPer = static_cast<float>(1.0 / 448.0);
  const uint32_t largest = largest_magnitude(x, count);
  if (largest >= 0x7F800000u) {
    std::memset(codes, 0x7F, static_cast<size_t>(count));
    return 1.0f;
  }
  const float amax = same_bits<float>(largest);
  const float magnitude = amax > 1e-4f ? amax : 1e-4f;
  float scale = rounding == ScaleRounding::kDivided ? magnitude / 448.0f : magnitude * kPer;
  if (rounding == ScaleRounding::kPow2) {
    scale = same_bits<float>((same_bits<uint32_t>(scale) + 0x7FFFFFu) & 0x7F800000u);
    const float inverse = 1.0f / scale;  // exact: 2^-120 .. 2^22
    convert_all(x, count, codes, [&](Words some) { return nearest_codes(floats(some) * inverse); });
  } else {
    convert_all(x, count, codes, [&](Words some) { return nearest_codes(floats(some) / scale); });
  }
  return scale;
}

using fulgurite::cpu::ScaledCodes;

constexpr int64_t kGroup = 128;  // codes with one scale

inline float scale_of(const ScaledCodes& row, int64_t group) {
  float scale;
  std::memcpy(&scale, row.scales + 4 * group, sizeof scale);
  return scale;
}

inline void widen_row(const ScaledCodes& row, int64_t width, uint16_t* out) {
  for (int64_t first = 0; first < width; first += kGroup)
    widen_e4m3(row.codes + first, width - first < kGroup ? width - first : kGroup,
               scale_of(row, first / kGroup), out + first);
}

void widen_two(const ScaledCodes& first, const ScaledCodes& second, int64_t width, uint16_t* first_out,
               uint16_t* second_out, uint32_t* pairs) {
  widen_row(first, width, first_out);
  widen_row(second, width, second_out);
  interleave(first_out, second_out, width, pairs);
}

// --- panels ---

typedef uint32_t FourPairs __attribute__((vector_size(16)));

constexpr int64_t kPieceElements = 64;  // of each row, at a time

// Sixteen rows of bf16, `stride` elements apart, to panel: four rows and four pairs at a time. pairs % 4 ==
// 0.
inline void transpose_rows(const uint16_t* rows, int64_t stride, int64_t pairs, uint32_t* panel) {
  for (int64_t l = 0; l < kPanel; l += 4) {
    for (int64_t p = 0; p < pairs; p += 4) {
      FourPairs row[4];
      for (int i = 0; i < 4; ++i) std::memcpy(&row[i], rows + (l + i) * stride + 2 * p, sizeof row[i]);
      const FourPairs a = __builtin_shufflevector(row[0], row[1], 0, 4, 1, 5);
      const FourPairs b = __builtin_shufflevector(row[2], row[3], 0, 4, 1, 5);
      const FourPairs c = __builtin_shufflevector(row[0], row[1], 2, 6, 3, 7);
      const FourPairs d = __builtin_shufflevector(row[2], row[3], 2, 6, 3, 7);
      const FourPairs pair[4] = {
          __builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7),
          __builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7)};
      for (int i = 0; i < 4; ++i) std::memcpy(panel + (p + i) * kPanel + l, &pair[i], sizeof pair[i]);
    }
  }
}

// A panel of rows that widen(lane, column, count, out) gives piece by piece as bf16.
template <class Widen>
inline void pack(int64_t lanes, int64_t width, uint32_t* panel, const Widen& widen) {
  alignas(64) uint16_t rows[kPanel * kPieceElements] = {};
  alignas(64) uint32_t ragged[kPanel * kPieceElements / 2];
  for (int64_t first = 0; first < width; first += kPieceElements, panel += kPanel * kPieceElements / 2) {
    const int64_t count = width - first < kPieceElements ? width - first : kPieceElements;
    if (count == kPieceElements) {
      for (int64_t l = 0; l < lanes; ++l) widen(l, first, kPieceElements, rows + l * kPieceElements);
      transpose_rows(rows, kPieceElements, kPieceElements / 2, panel);
    } else {
      std::memset(rows, 0, sizeof rows);
      for (int64_t l = 0; l < lanes; ++l) widen(l, first, count, rows + l * kPieceElements);
      transpose_rows(rows, kPieceElements, kPieceElements / 2, ragged);
      std::memcpy(panel, ragged, static_cast<size_t>((count + 1) / 2 * kPanel) * sizeof(uint32_t));
    }
  }
}

void pack_e4m3(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel) {
  pack(lanes, width, panel, [&](int64_t l, int64_t column, int64_t count, uint16_t* out) {
    widen_e4m3(base + l * stride + column, count, 1.0f, out);
  });
}

void pack_bf16(const uint16_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel) {
  if (lanes == kPanel && width % 8 == 0) return transpose_rows(base, stride, width / 2, panel);
  pack(lanes, width, panel, [&](int64_t l, int64_t column, int64_t count, uint16_t* out) {
    std::memcpy(out, base + l * stride + column, static_cast<size_t>(count) * sizeof(uint16_t));
  });
}

// --- sums over heads ---

// B registers of lanes.
template <int B>
inline void head_sums_of(const float* products, int64_t stride, const float* weights, int64_t heads,
                         float* sums) {
  Floats sum[B] = {};
  for (int64_t h = 0; h < heads; ++h) {
    const Floats weight = Floats{} + weights[h];
    for (int b = 0; b < B; ++b) {
      const Floats product = load(products + h * stride + b * kWidth), zero = {};
      sum[b] = fused(weight, product < zero ? zero : product, sum[b]);
    }
  }
  for (int b = 0; b < B; ++b) store(sums + b * kWidth, sum[b]);
}

void head_sums(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t lanes,
               float* sums) {
  constexpr int kMany = 8;  // sums, to cover the latency
  int64_t l = 0;
  for (; l + kMany * kWidth <= lanes; l += kMany * kWidth)
    head_sums_of<kMany>(products + l, stride, weights, heads, sums + l);
  for (; l + kMany / 2 * kWidth <= lanes; l += kMany / 2 * kWidth)
    head_sums_of<kMany / 2>(products + l, stride, weights, heads, sums + l);
  for (; l + kWidth <= lanes; l += kWidth) head_sums_of<1>(products + l, stride, weights, heads, sums + l);
  for (; l < lanes; ++l) {
    float sum = 0.0f;
    for (int64_t h = 0; h < heads; ++h) {
      const float product = products[h * stride + l];
      sum = __builtin_fmaf(weights[h], product < 0.0f ? 0.0f : product, sum);
    }
    sums[l] = sum;
  }
}

}  // namespace
