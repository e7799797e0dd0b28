// The peak entries of kernels.h, part of kernels_body.h: as many independent sums as hide the latency of the
// arithmetic, in registers alone. No #pragma once: it is a body.

#include <cstdint>
#include <cstring>

#if defined(__FMA__)
#include <immintrin.h>
#endif

namespace {

constexpr int kPeakSums = 12;  // of 16 registers

typedef float PeakFloats __attribute__((vector_size(kRegisterBytes)));

// `rounds` times step(sum) on each of the sums; they end in out[16], so that nothing is left out.
template <class Sum, class Step>
inline void repeat_in_registers(int64_t rounds, float* out, const Step& step) {
  Sum sums[kPeakSums];
  for (int i = 0; i < kPeakSums; ++i) std::memset(&sums[i], 0, sizeof(Sum));
  // Sums that are known to be alike would be made once.
  for (int i = 0; i < kPeakSums; ++i) std::memcpy(&sums[i], out + i, sizeof(float));
  for (int64_t round = 0; round < rounds; ++round)
    for (int i = 0; i < kPeakSums; ++i) sums[i] = step(sums[i]);
  constexpr int kLanesOfSum = sizeof(Sum) / sizeof(float);
  for (int i = 0; i < kPeakSums; ++i) {
    float lanes[kLanesOfSum];
    std::memcpy(lanes, &sums[i], sizeof lanes);
    for (int l = 0; l < kLanesOfSum; ++l) out[l % 16] += lanes[l];
  }
}

inline PeakFloats all_lanes(float value) { return PeakFloats{} + value; }

int64_t peak_fp32(int64_t rounds, float* out) {
  const PeakFloats factor = all_lanes(out[0] + 0.5f), term = all_lanes(out[1] + 0.25f);
  repeat_in_registers<PeakFloats>(rounds, out, [&](PeakFloats sum) { return sum * factor + term; });
  return rounds * kPeakSums * (kRegisterBytes / 4) * 2;
}

int64_t peak_pairs(int64_t rounds, float* out) {
#if defined(__AVX512BF16__)
  const __m512bh pairs = (__m512bh)_mm512_set1_epi32(0x3F003F00);  // 0.5, 0.5
  repeat_in_registers<__m512>(rounds, out, [&](__m512 sum) { return _mm512_dpbf16_ps(sum, pairs, pairs); });
  return rounds * kPeakSums * 16 * 4;
#elif defined(__AVX512F__)
  const __m512 factor = _mm512_set1_ps(out[0] + 0.5f), term = _mm512_set1_ps(out[1] + 0.25f);
  repeat_in_registers<__m512>(rounds, out, [&](__m512 sum) { return _mm512_fmadd_ps(sum, factor, term); });
  return rounds * kPeakSums * 16 * 2;
#elif defined(__FMA__)
  const __m256 factor = _mm256_set1_ps(out[0] + 0.5f), term = _mm256_set1_ps(out[1] + 0.25f);
  repeat_in_registers<__m256>(rounds, out, [&](__m256 sum) { return _mm256_fmadd_ps(sum, factor, term); });
  return rounds * kPeakSums * 8 * 2;
#else
  return peak_fp32(rounds, out);
#endif
}

}  // namespace
