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

std::vector<double> scores_of(const sparse_attention::Problem& problem, const sparse_attention::Args& args,
                              int64_t t, int64_t head, std::span<const int32_t> rows) {
  std::vector<double> scores;
  for (const int32_t position : rows) {
    const std::byte* const row = args.cache.rows[args.places(t).sequence][position].data;
    double sum = 0.0;
    for (int64_t i = 0; i < problem.latent; ++i)
      sum += static_cast<double>(load(args.q, t, head, i)) * args.cache.row.latent_value(row, i);
    for (int64_t i = 0; i < problem.rope; ++i)
      sum += static_cast<double>(load(args.q_rope, t, head, i)) * args.cache.row.rope_value(row, i);
    scores.push_back(sum * problem.scale);
  }
  return scores;
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
  double recall = 0.0;
  for (int64_t head = 0; head < problem.heads; ++head) {
    const std::vector<double> scores = scores_of(problem, args, t, head, base);
    const double largest = *std::ranges::max_element(scores);
    double all = 0.0, kept = 0.0;
    for (size_t i = 0; i < scores.size(); ++i) {
      const double weight = std::exp(scores[i] - largest);
      all += weight;
      if (both[i]) kept += weight;
    }
    recall += kept / all;
  }
  return recall / static_cast<double>(problem.heads);
}

}  // namespace fulgurite::audit
