#include "fulgurite/execute/sampler.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "fulgurite/core/error.h"

namespace fulgurite::execute {

int32_t greedy(View<const float, 1> logits) {
  int64_t best = -1;
  for (int64_t i = 0; i < logits.extent[0]; ++i)
    if (!std::isnan(logits(i)) && (best < 0 || logits(i) > logits(best))) best = i;
  if (best < 0) fail(ErrorKind::kRequest, "logits: expected numbers, found only NaN");
  return static_cast<int32_t>(best);
}

Sampler::Sampler(const SamplerOptions& options, int64_t vocabulary)
    : options_(options), random_(options.seed) {
  if (!(options.temperature >= 0.0 && options.temperature <= 100.0))
    fail(ErrorKind::kRequest, "temperature: expected 0 to 100, found {}", options.temperature);
  if (!(options.top_p > 0.0 && options.top_p <= 1.0))
    fail(ErrorKind::kRequest, "top-p: expected above 0 and at most 1, found {}", options.top_p);
  if (options.top_k < 0)
    fail(ErrorKind::kRequest, "top-k: expected 0 (all) or more, found {}", options.top_k);
  candidates_.reserve(static_cast<size_t>(vocabulary));
}

// exp((logit - max) / temperature).
double Sampler::weigh(View<const float, 1> logits) {
  const double largest = logits(greedy(logits));
  double total = 0.0;
  candidates_.clear();
  for (int64_t i = 0; i < logits.extent[0]; ++i) {
    if (std::isnan(logits(i))) continue;
    // The largest weighs 1 also where it is infinite.
    const double distance = logits(i) == largest ? 0.0 : (logits(i) - largest) / options_.temperature;
    candidates_.push_back({std::exp(distance), static_cast<int32_t>(i)});
    total += candidates_.back().weight;
  }
  drop_improbable(total);
  std::ranges::make_heap(candidates_, less_probable);
  return total;
}

// All that weigh less than this hold together less than half of what top-p leaves out: none of them is kept. They are
// most of a vocabulary, and need no order.
void Sampler::drop_improbable(double total) {
  const double least = 0.5 * (1.0 - options_.top_p) * total / static_cast<double>(candidates_.size());
  if (options_.top_k > 0) return;  // top-p is of what it keeps
  std::erase_if(candidates_, [least](const Candidate& candidate) { return candidate.weight < least; });
}

// Few are kept of a vocabulary: a heap gives them without sorting the rest. Top-p is of what top-k keeps.
size_t Sampler::keep_most_probable(double total) {
  const size_t all = candidates_.size();
  const auto pop = [&](size_t count) {
    std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<int64_t>(count), less_probable);
    return candidates_[all - count - 1].weight;
  };
  size_t most = all, popped = 0;
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < all) {
    total = 0.0;
    for (most = static_cast<size_t>(options_.top_k); popped < most; ++popped) total += pop(popped);
  }
  double kept = 0.0;
  size_t count = 0;
  for (; count < most && (count == 0 || kept < options_.top_p * total); ++count)
    kept += count < popped ? candidates_[all - count - 1].weight : pop(count);
  return count;
}

int32_t Sampler::next(View<const float, 1> logits) {
  if (options_.temperature == 0.0) return greedy(logits);
  const double all = weigh(logits);
  const size_t count = keep_most_probable(all);
  const std::span kept = std::span(candidates_).last(count);
  double total = 0.0;
  for (const Candidate& candidate : kept) total += candidate.weight;
  double left = random_.uniform() * total;
  for (size_t i = count; i-- > 1;) {  // the most probable first
    left -= kept[i].weight;
    if (left < 0.0) return kept[i].id;
  }
  return kept[0].id;
}

}  // namespace fulgurite::execute
