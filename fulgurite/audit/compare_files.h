#pragma once
// Two files of named tensors, tensor by tensor in the order of the computation: which stage went wrong first?

#include <optional>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/safetensors.h"

namespace fulgurite::audit {

struct TensorDifference {
  std::string name;
  std::string problem;        // "shape F32 [2, 3] against F32 [2, 4]"; empty: the values were compared
  bool indices = false;       // integers: rows are compared as sets, -1 is no member
  double relative_l2 = 0.0;   // |a - b| / |b|, over elements that are finite on both sides
  double worst_row_l2 = 0.0;  // the same of the worst row (all but the first dimension)
  int64_t worst_row = 0;
  double largest = 0.0;  // max |a - b|
  std::vector<int64_t> largest_at;
  int64_t mask_mismatches = 0;    // NaN or infinity on one side only, or infinities of other sign
  double smallest_overlap = 1.0;  // of sets: shared members / members of the larger set, in the worst row
  int64_t rows_that_differ = 0;   // of sets
  int64_t rows = 0;

  // What is held against a tolerance: the worst row's distance, or the share of its set that differs.
  double distance() const;
};

struct Comparison {
  std::vector<TensorDifference> tensors;
  std::vector<std::string> only_a, only_b;
  // The first tensor beyond the tolerance, in the order of the computation.
  const TensorDifference* first_beyond(double tolerance) const;
};

// Names are compared after their prefix; tensors without it are left alone.
Comparison compare_files(const checkpoint::SafetensorsFile& a, const std::string& prefix_a,
                         const checkpoint::SafetensorsFile& b, const std::string& prefix_b);

}  // namespace fulgurite::audit
