#pragma once
// How far rows of numbers are from what they should be, gathered row by row: nothing of them is kept.

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "fulgurite/core/dtype.h"

namespace fulgurite::audit {

struct TensorStatistics {
  // Elements by their distance in steps of their own type: 0, 1, 2, up to 4, up to 16, more.
  static constexpr std::array<const char*, 6> kUlpNames{"0", "1", "2", "3-4", "5-16", "more"};

  bool indices = false;  // integers: rows are the same or not, and nothing else is said
  int64_t rows = 0, rows_differing = 0;
  int64_t elements = 0;         // finite on both sides
  int64_t mask_mismatches = 0;  // NaN or infinity on one side only
  int64_t differing = 0;
  int64_t differing_as_bf16 = 0;  // of both sides rounded to bf16
  int64_t higher = 0, lower = 0;
  double squared_difference = 0.0, squared_expected = 0.0;
  double worst_row_l2 = 0.0;  // relative, of the row at this position
  int64_t worst_row = -1;
  double largest = 0.0;  // |actual - expected|, at this position and column
  int64_t largest_row = -1, largest_column = -1;
  std::array<int64_t, 6> ulps{};

  // The row of a position: of `type` both.
  void add_row(int64_t position, std::span<const float> actual, std::span<const float> expected, DType type);
  void add_indices(std::span<const int32_t> actual, std::span<const int32_t> expected);

  double relative_l2() const;
  double bias() const;  // (higher - lower) / differing
  double share_differing() const;
  double share_differing_as_bf16() const;
};

// Mean and its standard error, of numbers that come one by one.
struct Mean {
  int64_t count = 0;
  double sum = 0.0, squares = 0.0, largest = 0.0;

  void add(double value);
  double mean() const { return count == 0 ? 0.0 : sum / static_cast<double>(count); }
  double error() const;                                    // standard error of the mean
  double low() const { return mean() - 1.96 * error(); }   // of an interval that holds 95 %
  double high() const { return mean() + 1.96 * error(); }  // of it
};

// How many values lie where: counts[i] below edges[i] and not below the edge before it, the last count from the
// last edge on (NaN too). One count more than edges.
struct Histogram {
  std::vector<double> edges;  // ascending
  std::vector<int64_t> counts;
};
Histogram histogram_of(std::span<const float> values, std::span<const double> edges);

}  // namespace fulgurite::audit
