#include "fulgurite/audit/stage.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/audit/compare.h"

namespace fulgurite::audit {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
// Rows of next to nothing are held against the tensor: against this share of its rows' root mean square.
constexpr double kLeastRow = 1e-3;

struct RowSums {
  double difference = 0.0, expected = 0.0, largest = 0.0;  // squares, and the largest magnitude
  double farthest = -1.0;
  int64_t column = -1;
  bool masked = false;
};

RowSums row_sums(const float* ours, const float* theirs, int64_t width, int64_t& higher, int64_t& lower) {
  RowSums sums;
  for (int64_t i = 0; i < width; ++i) {
    const double a = ours[i], b = theirs[i];
    const double difference = std::abs(a - b);
    if (!same_mask(a, b) && !sums.masked) {
      sums.masked = true;
      sums.column = i;
    }
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    sums.difference += difference * difference;
    sums.expected += b * b;
    sums.largest = std::max(sums.largest, std::abs(b));
    higher += std::abs(b) > std::abs(a);
    lower += std::abs(b) < std::abs(a);
    if (difference > sums.farthest && !sums.masked) {
      sums.farthest = difference;
      sums.column = i;
    }
  }
  return sums;
}

RowRange clamped(RowRange rows, const DumpTensor& tensor) {
  return {std::clamp<int64_t>(rows.first, 0, tensor.rows), std::clamp<int64_t>(rows.last, 0, tensor.rows)};
}

void note_beyond(StageDistance& d, int64_t row) {
  d.rows_beyond += 1;
  if (d.first_beyond < 0) d.first_beyond = row;
  d.last_beyond = row;
}

std::vector<int32_t> sorted_row(const int32_t* row, int64_t width) {
  std::vector<int32_t> members;
  for (int64_t i = 0; i < width; ++i)
    if (row[i] != -1) members.push_back(row[i]);
  std::ranges::sort(members);
  return members;
}

// The first member of a that b has not; -1: there is none.
int64_t first_missing(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  for (const int32_t id : a)
    if (!std::ranges::binary_search(b, id)) return id;
  return -1;
}

void note_set(StageDistance& d, int64_t row, const std::vector<int32_t>& ours,
              const std::vector<int32_t>& theirs) {
  if (d.rows_beyond == 0) {
    d.worst_row = row;
    d.theirs = static_cast<double>(first_missing(theirs, ours));
    d.ours = static_cast<double>(first_missing(ours, theirs));
    d.worst_row_l2 = 1.0;
    const auto twice = std::ranges::adjacent_find(theirs);
    if (twice != theirs.end()) d.problem = fmt::format("names {} twice", *twice);
  }
  note_beyond(d, row);
}

StageDistance finished(StageDistance d, RowRange rows) {
  d.indices = true;
  d.rows = rows.last - rows.first;
  d.relative_l2 = d.rows == 0 ? 0.0 : static_cast<double>(d.rows_beyond) / static_cast<double>(d.rows);
  return d;
}

// Are all members that differ, on both sides, within the slack of the cut?
bool near_tie(const SelectionRule& rule, const float* scores, int64_t visible,
              const std::vector<int32_t>& chosen, const std::vector<int32_t>& theirs) {
  double largest = 0.0, cut = kInfinity;
  for (int64_t i = 0; i < visible; ++i) largest = std::max(largest, std::abs(static_cast<double>(scores[i])));
  for (const int32_t id : chosen) cut = std::min(cut, static_cast<double>(scores[id]));
  const auto near = [&](const std::vector<int32_t>& some, const std::vector<int32_t>& others) {
    return std::ranges::all_of(some, [&](int32_t id) {
      return std::ranges::binary_search(others, id) ||
             std::abs(static_cast<double>(scores[id]) - cut) <= rule.slack * largest;
    });
  };
  return rule.slack > 0.0 && theirs.size() == chosen.size() && near(chosen, theirs) && near(theirs, chosen);
}

}  // namespace

StageDistance values_distance(const ComputedRows& ours, const DumpTensor& theirs, const StageGate& gate,
                              int64_t tokens_a_column, RowRange range) {
  const RowRange rows = clamped(range, theirs);
  const int64_t width = theirs.width();
  StageDistance d;
  d.rows = rows.last - rows.first;
  std::vector<RowSums> all;
  int64_t higher = 0, lower = 0;
  double difference = 0.0, expected = 0.0;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    const int64_t seen =
        tokens_a_column == 0 ? width : std::min(width, (theirs.first_row + r + 1) / tokens_a_column);
    all.push_back(row_sums(ours.f32.data() + r * width, theirs.row(r), seen, higher, lower));
    difference += all.back().difference;
    expected += all.back().expected;
  }
  const double least = kLeastRow * std::sqrt(expected / static_cast<double>(std::max<int64_t>(1, d.rows)));
  double worst_share = -1.0;
  bool masked = false;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    const RowSums& sums = all[static_cast<size_t>(r - rows.first)];
    const double norm = std::max(std::sqrt(sums.expected), least);
    double l2 = sums.difference == 0.0 ? 0.0 : std::sqrt(sums.difference) / norm;
    if (sums.masked) l2 = kInfinity;
    const double bound = std::max(gate.row, norm == 0.0 ? 0.0 : 2.0 * gate.step * sums.largest / norm);
    const double share = l2 == 0.0 ? 0.0 : bound == 0.0 ? kInfinity : l2 / bound;
    masked = masked || sums.masked;
    if (!(l2 <= bound)) note_beyond(d, r);
    if (!(share <= worst_share)) {
      worst_share = share;
      d.worst_row_l2 = l2;
      d.worst_row = r;
      d.worst_column = sums.column;
    }
  }
  if (d.worst_column >= 0) {
    d.ours = ours.f32[static_cast<size_t>(d.worst_row * width + d.worst_column)];
    d.theirs = theirs.row(d.worst_row)[d.worst_column];
  }
  d.relative_l2 = difference == 0.0 ? 0.0 : expected == 0.0 ? kInfinity : std::sqrt(difference / expected);
  if (masked) d.relative_l2 = kInfinity;
  d.bias =
      higher + lower == 0 ? 0.0 : static_cast<double>(higher - lower) / static_cast<double>(higher + lower);
  return d;
}

StageGate distance_between(const ComputedRows& a, const ComputedRows& b, const DumpTensor& shape,
                           int64_t tokens_a_column, RowRange range) {
  DumpTensor theirs = shape;
  theirs.f32 = b.f32;
  // A bound that every row is beyond in proportion: the worst row is the farthest.
  const StageDistance d = values_distance(a, theirs, {0.0, 1e-30, 0.0, true}, tokens_a_column, range);
  return {d.relative_l2, d.worst_row_l2, 0.0, true};
}

StageDistance sets_distance(const ComputedRows& ours, const DumpTensor& theirs,
                            const std::vector<bool>& excused, RowRange range) {
  const RowRange rows = clamped(range, theirs);
  const int64_t width = theirs.width(), our_width = std::ssize(ours.i32) / theirs.rows;
  StageDistance d;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    const std::vector<int32_t> a = sorted_row(ours.i32.data() + r * our_width, our_width),
                               b = sorted_row(theirs.index_row(r), width);
    if (a == b || (static_cast<size_t>(r) < excused.size() && excused[static_cast<size_t>(r)])) continue;
    note_set(d, r, a, b);
  }
  return finished(std::move(d), rows);
}

StageDistance selection_distance(const SelectionRule& rule, const DumpTensor& theirs, RowRange range) {
  const RowRange rows = clamped(range, theirs);
  StageDistance d;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    const float* const scores = rule.scores + r * rule.width;
    const int64_t visible = std::min(rule.width, (theirs.first_row + r + 1) / rule.tokens_a_row);
    const std::vector<int32_t> chosen =
        chosen_by({scores, static_cast<size_t>(visible)}, rule.most, rule.ties);
    const std::vector<int32_t> members = sorted_row(theirs.index_row(r), theirs.width());
    if (members == chosen) continue;
    const bool legal = std::ranges::adjacent_find(members) == members.end() &&
                       (members.empty() || (members.front() >= 0 && members.back() < visible));
    if (legal && near_tie(rule, scores, visible, chosen, members)) continue;
    note_set(d, r, chosen, members);
  }
  return finished(std::move(d), rows);
}

}  // namespace fulgurite::audit
