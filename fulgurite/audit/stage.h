#pragma once
// One stage's output against the dump's: how far, and is that too far?

#include <cstdint>
#include <string>
#include <vector>

#include "fulgurite/audit/replay.h"

namespace fulgurite::audit {

// What a stage may differ by: relative L2 of all rows, and of any one.
struct StageGate {
  double all = 0.0;
  double row = 0.0;
  // Of how the tensor is stored: half a step, relative. A row may have its largest element one step off.
  double step = 0.0;
  bool from_noise = false;  // measured between two orders of the same sums; false: derived from the storage
};

struct StageDistance {
  int64_t rows = 0;
  bool indices = false;
  double relative_l2 = 0.0;         // of indices: share of the rows that are other sets
  double worst_row_l2 = 0.0;        // of the row that is farthest beyond its bound, or nearest to it
  int64_t worst_row = -1;           // its number in the tensor
  int64_t worst_column = -1;        // its largest difference, or its first member that is not ours
  double ours = 0.0, theirs = 0.0;  // there
  int64_t rows_beyond = 0;
  int64_t first_beyond = -1, last_beyond = -1;  // rows
  double bias = 0.0;                            // (theirs higher - lower) / differing, of magnitudes
  std::string problem;                          // of a selection: "names 17 twice"

  bool within(const StageGate& gate) const { return rows_beyond == 0 && relative_l2 <= gate.all; }
};

// Rows [first, last) of the tensor; of index scores what is visible alone. NaN is beyond every gate.
struct RowRange {
  int64_t first = 0, last = INT64_MAX;
};
StageDistance values_distance(const ComputedRows& ours, const DumpTensor& theirs, const StageGate& gate,
                              int64_t tokens_a_column = 0, RowRange rows = {});
// How far two orders of the same sums are from each other: all rows together, and the farthest row.
StageGate distance_between(const ComputedRows& a, const ComputedRows& b, const DumpTensor& shape,
                           int64_t tokens_a_column = 0, RowRange rows = {});
// `excused`: rows in which another legitimate order of the sums chose other members than ours, too.
StageDistance sets_distance(const ComputedRows& ours, const DumpTensor& theirs,
                            const std::vector<bool>& excused, RowRange rows = {});

// A selection against the scores that it was made of: each row is what they choose of those visible, and
// members whose scores are within `slack` of the cut (relative to the row's largest) are as good as others.
struct SelectionRule {
  const float* scores = nullptr;  // [rows, width]
  int64_t width = 0;
  int64_t most = 0;  // members of a row
  int64_t tokens_a_row = 1;
  Ties ties = Ties::kLower;
  double slack = 0.0;
};
StageDistance selection_distance(const SelectionRule& rule, const DumpTensor& theirs, RowRange rows = {});

}  // namespace fulgurite::audit
