#include "bench/cuda/sparse_attention_expected.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {
constexpr int kColumns = 512;
static_assert(sizeof(MmaFactor) == sizeof(uint32_t));
}  // namespace

uint32_t bf16_factor(float value) {
  const MmaFactor factor = mma_factor(MmaType::kBf16, value);
  uint32_t bits;
  std::memcpy(&bits, &factor, sizeof bits);
  return bits;
}

float expected_score(const uint32_t* q, const uint32_t* row, int columns, float scale) {
  MmaFactor a[576], b[576];
  std::memcpy(a, q, static_cast<size_t>(columns) * 4);
  std::memcpy(b, row, static_cast<size_t>(columns) * 4);
  const auto n = static_cast<size_t>(columns);
  return mma_sum(MmaType::kBf16, {a, n}, {b, n}) * scale;
}

std::vector<float> expected_head(const std::vector<float>& scores, const float* rows, int stride) {
  Numerics numerics = Numerics::serving();
  numerics.mma = Mma::kHopper;
  std::vector<float> out(kColumns);
  reference_attend(numerics, scores, [&](int64_t j, int64_t c) { return rows[j * stride + c]; }, out);
  return out;
}

Exact exact_head(const std::vector<float>& scores, const float* rows, int stride, int splits) {
  const auto n = static_cast<int64_t>(scores.size());
  const double unit = 0x1p-24, terms = static_cast<double>((n + 63) / 64 + splits);
  double largest = scores[0], all = 0.0;
  for (const float s : scores) largest = std::max(largest, static_cast<double>(s));
  std::vector<double> p;
  for (const float s : scores) p.push_back(std::exp(s - largest)), all += p.back();
  Exact exact{std::vector<double>(kColumns), std::vector<double>(kColumns)};
  std::vector<double> magnitude(kColumns), weighted(kColumns);
  double errors = 0.0;
  for (int64_t j = 0; j < n; ++j) {
    if (scores[static_cast<size_t>(j)] == -std::numeric_limits<float>::infinity()) continue;
    const double weight = p[static_cast<size_t>(j)] / all;
    const double error = weight * 0x1p-21 * (terms + 2.0 + largest - scores[static_cast<size_t>(j)]);
    errors += error;
    for (int c = 0; c < kColumns; ++c) {
      const double value = rows[j * stride + c];
      exact.out[static_cast<size_t>(c)] += weight * value;
      magnitude[static_cast<size_t>(c)] += weight * std::abs(value);
      weighted[static_cast<size_t>(c)] += (weight * 0x1p-8 + error) * std::abs(value);
    }
  }
  for (size_t c = 0; c < kColumns; ++c) {
    const double result = std::abs(exact.out[c]);
    exact.bound[c] = weighted[c] + errors * result +
                     (magnitude[c] + result) * (19.0 / 16.0 * static_cast<double>(n) + 8.0 * terms + 32.0) * unit;
  }
  return exact;
}

float code_value(uint8_t e4m3) {
  return LatentRow{LatentCache::kFp8, 512, 64}.latent_value(
      [&] {
        static thread_local std::byte row[656];
        row[0] = std::byte{e4m3};
        const float one = 1.0f;
        std::memcpy(row + 512, &one, 4);
        return row;
      }(),
      0);
}

}  // namespace fulgurite::sparse_attention
