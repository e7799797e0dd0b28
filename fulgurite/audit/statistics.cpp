#include "fulgurite/audit/statistics.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "fulgurite/audit/compare.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp16.h"

namespace fulgurite::audit {
namespace {

// Bits of a type of `width` bits as integers in the order of their values.
int64_t ordered(uint32_t bits, int width) {
  const uint32_t sign = uint32_t{1} << (width - 1);
  return (bits & sign) != 0 ? -static_cast<int64_t>(bits & (sign - 1)) : static_cast<int64_t>(bits);
}

int64_t place_of(float value, DType type) {
  if (type == DType::kBF16) return ordered(to_bf16(value).bits, 16);
  if (type == DType::kF16) return ordered(to_fp16(value).bits, 16);
  return ordered(std::bit_cast<uint32_t>(value), 32);
}

size_t bucket_of(int64_t ulps) {
  if (ulps <= 2) return static_cast<size_t>(ulps);
  return ulps <= 4 ? 3 : ulps <= 16 ? 4 : 5;
}

double share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

double relative(double squared_difference, double squared_expected) {
  return squared_difference == 0.0 ? 0.0 : std::sqrt(squared_difference / squared_expected);
}

}  // namespace

void TensorStatistics::add_row(int64_t position, std::span<const float> actual,
                               std::span<const float> expected, DType type) {
  double row_difference = 0.0, row_expected = 0.0;
  const int64_t before = differing + mask_mismatches;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!same_mask(actual[i], expected[i])) {
      mask_mismatches += 1;
      continue;
    }
    if (!std::isfinite(expected[i])) continue;
    elements += 1;
    row_expected += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    ulps[difference == 0.0 ? 0
                           : bucket_of(std::abs(place_of(actual[i], type) - place_of(expected[i], type)))] +=
        1;
    if (difference == 0.0) continue;
    differing += 1;
    differing_as_bf16 += to_bf16(actual[i]).bits != to_bf16(expected[i]).bits;
    (difference > 0.0 ? higher : lower) += 1;
    row_difference += difference * difference;
    if (std::abs(difference) <= largest) continue;
    largest = std::abs(difference);
    largest_row = position;
    largest_column = static_cast<int64_t>(i);
  }
  rows += 1;
  rows_differing += differing + mask_mismatches > before;
  squared_difference += row_difference;
  squared_expected += row_expected;
  if (const double l2 = relative(row_difference, row_expected); l2 > worst_row_l2) {
    worst_row_l2 = l2;
    worst_row = position;
  }
}

void TensorStatistics::add_indices(std::span<const int32_t> actual, std::span<const int32_t> expected) {
  indices = true;
  rows += 1;
  rows_differing += !std::ranges::equal(actual, expected);
}

double TensorStatistics::relative_l2() const { return relative(squared_difference, squared_expected); }

double TensorStatistics::bias() const {
  return differing == 0 ? 0.0 : static_cast<double>(higher - lower) / static_cast<double>(differing);
}

double TensorStatistics::share_differing() const {
  return indices ? share(rows_differing, rows) : share(differing, elements);
}

double TensorStatistics::share_differing_as_bf16() const { return share(differing_as_bf16, elements); }

void Mean::add(double value) {
  largest = count == 0 ? value : std::max(largest, value);
  count += 1;
  sum += value;
  squares += value * value;
}

double Mean::error() const {
  if (count < 2) return std::numeric_limits<double>::infinity();
  const auto n = static_cast<double>(count);
  return std::sqrt(std::max(0.0, squares / n - mean() * mean()) / (n - 1.0));
}

Histogram histogram_of(std::span<const float> values, std::span<const double> edges) {
  Histogram histogram{{edges.begin(), edges.end()}, std::vector<int64_t>(edges.size() + 1, 0)};
  for (const float value : values) {
    const auto above = std::ranges::find_if(edges, [&](double edge) { return value < edge; });
    histogram.counts[static_cast<size_t>(above - edges.begin())] += 1;
  }
  return histogram;
}

}  // namespace fulgurite::audit
