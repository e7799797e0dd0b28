#pragma once
// Two choices of rows for the same query, and how narrowly the scores made one of them.

#include <cstdint>
#include <span>
#include <vector>

#include "fulgurite/audit/statistics.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::audit {

// Rows of which more are visible than are chosen: of the others there is nothing to choose.
struct SelectionStatistics {
  int64_t rows = 0;             // all
  int64_t open = 0;             // of them, such with a choice
  Mean overlap;                 // of open rows: share of the base's set that the other has too
  std::vector<float> overlaps;  // each of them
  double least_overlap = 1.0;
  int64_t least_overlap_row = -1;
  Mean changed;  // of open rows: 1 where the sets differ
  Mean recall;   // of open rows: share of the base's attention on what the other chose too
  double least_recall = 1.0;
  int64_t rows_decided_by_tie = 0;  // the last one chosen and the first one left have the same score
  int64_t most_ties = 0;            // candidates with the score of the last one chosen
  std::vector<float> margins;       // of open rows: (last chosen - first left) / (highest - lowest)

  // Ascending positions, then -1.
  void add_sets(int64_t position, int64_t visible, std::span<const int32_t> other,
                std::span<const int32_t> base);
  void add_recall(double share);
  // The scores of a row's visible candidates, `chosen` of which are taken. Rows without a choice count nothing.
  void add_scores(std::span<const float> scores, int64_t chosen);

  // The margin below which this share of the open rows lies.
  double margin_quantile(double share) const;
};

// Share of the attention of token t that lies on rows of args.selected which `other` has too: the mean of the
// heads, each its softmax of exact scores over args.selected.
double attention_recall(const sparse_attention::Problem& problem, const sparse_attention::Args& args,
                        int64_t t, std::span<const int32_t> other);
// The same of entries: of the attention on those selected, window and sink aside.
double attention_recall(const compressed_attention::Problem& problem, const compressed_attention::Args& args,
                        int64_t t, std::span<const int32_t> other);

}  // namespace fulgurite::audit
