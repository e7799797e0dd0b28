#include "fulgurite/audit/selection.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "fulgurite/core/element.h"

namespace fulgurite::audit {
namespace {

std::span<const int32_t> members(std::span<const int32_t> row) {
  return row.first(static_cast<size_t>(std::ranges::find(row, -1) - row.begin()));
}

// Of each row of `base`: has the other it too?
std::vector<bool> shared(std::span<const int32_t> base, std::span<const int32_t> other) {
  std::vector<bool> both;
  for (const int32_t row : base) both.push_back(std::ranges::binary_search(other, row));
  return both;
}

// Of a head's attention on rows of values [rows][width], each with a softmax of exact scores: the share that lies
// on the marked ones.
double marked_share(std::span<const double> q, std::span<const double> values, double scale,
                    const std::vector<bool>& marked) {
  std::vector<double> scores;
  for (; !values.empty(); values = values.subspan(q.size())) {
    double sum = 0.0;
    for (size_t i = 0; i < q.size(); ++i) sum += q[i] * values[i];
    scores.push_back(sum * scale);
  }
  const double largest = *std::ranges::max_element(scores);
  double all = 0.0, kept = 0.0;
  for (size_t i = 0; i < scores.size(); ++i) {
    const double weight = std::exp(scores[i] - largest);
    all += weight;
    if (marked[i]) kept += weight;
  }
  return kept / all;
}

std::vector<double> row_of(const ConstTensor<3>& x, int64_t t, int64_t head) {
  std::vector<double> row;
  for (int64_t i = 0; i < x.extent[2]; ++i) row.push_back(load(x, t, head, i));
  return row;
}

}  // namespace

void SelectionStatistics::add_sets(int64_t position, int64_t visible, std::span<const int32_t> other,
                                   std::span<const int32_t> base) {
  rows += 1;
  if (visible <= static_cast<int64_t>(base.size())) return;
  open += 1;
  const std::vector<bool> both = shared(members(base), members(other));
  const auto count = static_cast<double>(std::ranges::count(both, true));
  const double share = both.empty() ? 1.0 : count / static_cast<double>(both.size());
  overlap.add(share);
  overlaps.push_back(static_cast<float>(share));
  changed.add(share < 1.0 ? 1.0 : 0.0);
  if (share >= least_overlap) return;
  least_overlap = share;
  least_overlap_row = position;
}

void SelectionStatistics::add_recall(double share) {
  recall.add(share);
  least_recall = std::min(least_recall, share);
}

void SelectionStatistics::add_scores(std::span<const float> scores, int64_t chosen) {
  if (static_cast<int64_t>(scores.size()) <= chosen || chosen < 1) return;
  std::vector<float> order(scores.begin(), scores.end());
  const auto cut = order.begin() + static_cast<std::ptrdiff_t>(chosen) - 1;
  std::nth_element(order.begin(), cut, order.end(), std::greater<>());
  const float last = *cut, first_left = *std::max_element(cut + 1, order.end());
  const auto [lowest, highest] = std::ranges::minmax_element(order);
  const double range = static_cast<double>(*highest) - static_cast<double>(*lowest);
  margins.push_back(range > 0.0 ? static_cast<float>((static_cast<double>(last) - first_left) / range)
                                : 0.0f);
  if (last != first_left) return;
  rows_decided_by_tie += 1;
  most_ties = std::max<int64_t>(most_ties, std::ranges::count(order, last));
}

double SelectionStatistics::margin_quantile(double share) const {
  if (margins.empty()) return 0.0;
  std::vector<float> sorted = margins;
  std::ranges::sort(sorted);
  return sorted[std::min(sorted.size() - 1, static_cast<size_t>(share * static_cast<double>(sorted.size())))];
}

double attention_recall(const sparse_attention::Problem& problem, const sparse_attention::Args& args,
                        int64_t t, std::span<const int32_t> other) {
  const View<const int32_t, 1> selected = args.selected[t];
  const std::span<const int32_t> base = members({selected.data, static_cast<size_t>(selected.extent[0])});
  const std::vector<bool> both = shared(base, members(other));
  if (std::ranges::count(both, false) == 0) return 1.0;
  std::vector<double> values;
  for (const int32_t position : base) {
    const std::byte* const row = args.cache.at(args.places(t).sequence, position);
    for (int64_t i = 0; i < problem.latent; ++i) values.push_back(args.cache.row.latent_value(row, i));
    for (int64_t i = 0; i < problem.rope; ++i) values.push_back(args.cache.row.rope_value(row, i));
  }
  double recall = 0.0;
  for (int64_t head = 0; head < problem.heads; ++head) {
    std::vector<double> q = row_of(args.q, t, head);
    std::ranges::copy(row_of(args.q_rope, t, head), std::back_inserter(q));
    recall += marked_share(q, values, problem.scale, both);
  }
  return recall / static_cast<double>(problem.heads);
}

double attention_recall(const compressed_attention::Problem& problem, const compressed_attention::Args& args,
                        int64_t t, std::span<const int32_t> other) {
  const View<const int32_t, 1> selected = args.selected[t];
  const std::span<const int32_t> base = members({selected.data, static_cast<size_t>(selected.extent[0])});
  const std::vector<bool> both = shared(base, members(other));
  if (std::ranges::count(both, false) == 0) return 1.0;
  std::vector<double> values;
  for (const int32_t entry : base)
    for (int64_t i = 0; i < problem.head_dim; ++i)
      values.push_back(args.entries.value(args.places(t).sequence, entry, i));
  double recall = 0.0;
  for (int64_t head = 0; head < problem.heads; ++head)
    recall += marked_share(row_of(args.q, t, head), values, problem.scale, both);
  return recall / static_cast<double>(problem.heads);
}

}  // namespace fulgurite::audit
