// Registers of 32-bit words, and their way from and to bytes, halves and floats; part of kernels_body.h.
// (Instructions are named where the compiler's conversion of short vectors takes them apart.) No #pragma
// once: it is a body.

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) || defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

typedef uint32_t Words __attribute__((vector_size(kRegisterBytes)));

inline Words words(Floats values) { return reinterpret_cast<Words>(values); }
inline Floats floats(Words bits) { return reinterpret_cast<Floats>(bits); }

// a * b + sum, one rounding.
inline Floats fused(Floats a, Floats b, Floats sum) {
#if defined(__AVX512F__)
  return reinterpret_cast<Floats>(_mm512_fmadd_ps(a, b, sum));
#elif defined(__FMA__)
  return reinterpret_cast<Floats>(_mm256_fmadd_ps(a, b, sum));
#else
  Floats result;
  for (int l = 0; l < kWidth; ++l) result[l] = __builtin_fmaf(a[l], b[l], sum[l]);
  return result;
#endif
}

inline Words load_words(const float* from) { return words(load(from)); }

// Zeros above.
inline Words load_words(const uint8_t* from) {
#if defined(__AVX512F__)
  return reinterpret_cast<Words>(
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
#elif defined(__AVX2__)
  return reinterpret_cast<Words>(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
#else
  Words result;
  for (int l = 0; l < kWidth; ++l) result[l] = from[l];
  return result;
#endif
}

// The low halves of words below 2^16.
inline void store_words(uint16_t* to, Words words) {
#if defined(__AVX512F__)
  const __m256i halves = _mm512_cvtepi32_epi16(reinterpret_cast<__m512i>(words));
  std::memcpy(to, &halves, sizeof halves);
#elif defined(__AVX2__)
  const __m256i all = reinterpret_cast<__m256i>(words);
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  std::memcpy(to, &halves, sizeof halves);
#else
  for (int l = 0; l < kWidth; ++l) to[l] = static_cast<uint16_t>(words[l]);
#endif
}

// The low bytes of words below 2^8.
inline void store_words(uint8_t* to, Words words) {
#if defined(__AVX512F__)
  const __m128i bytes = _mm512_cvtepi32_epi8(reinterpret_cast<__m512i>(words));
  std::memcpy(to, &bytes, sizeof bytes);
#elif defined(__AVX2__)
  const __m256i all = reinterpret_cast<__m256i>(words);
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  const __m128i bytes = _mm_packus_epi16(halves, halves);
  std::memcpy(to, &bytes, sizeof bytes / 2);
#else
  for (int l = 0; l < kWidth; ++l) to[l] = static_cast<uint8_t>(words[l]);
#endif
}

// out[i] = convert(in[i]), a register at a time, the last one padded with zeros.
template <class In, class Out, class Convert>
inline void convert_all(const In* in, int64_t count, Out* out, const Convert& convert) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) store_words(out + i, convert(load_words(in + i)));
  if (i == count) return;
  In rest[kWidth] = {};
  Out converted[kWidth];
  std::memcpy(rest, in + i, static_cast<size_t>(count - i) * sizeof(In));
  store_words(converted, convert(load_words(rest)));
  std::memcpy(out + i, converted, static_cast<size_t>(count - i) * sizeof(Out));
}

}  // namespace
