#include "fulgurite/execute/sampler.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/core/error.h"
#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::execute {
namespace {

[[noreturn]] void fail_of_nan() { fail(ErrorKind::kRequest, "logits: expected numbers, found only NaN"); }

}  // namespace

int32_t greedy(View<const float, 1> logits) {
  int64_t best = -1;
  for (int64_t i = 0; i < logits.extent[0]; ++i)
    if (!std::isnan(logits(i)) && (best < 0 || logits(i) > logits(best))) best = i;
  if (best < 0) fail_of_nan();
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

// --- of all logits ---

double Sampler::weigh(View<const float, 1> logits) {
  const float largest = logits(greedy(logits));
  double total = 0.0;
  candidates_.clear();
  for (int64_t i = 0; i < logits.extent[0]; ++i) {
    if (std::isnan(logits(i))) continue;
    candidates_.push_back(
        {largest_logits::weight(logits(i), largest, options_.temperature), static_cast<int32_t>(i)});
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

double Sampler::pop(size_t popped) {
  std::pop_heap(candidates_.begin(), candidates_.end() - static_cast<int64_t>(popped), less_probable);
  return candidates_[candidates_.size() - popped - 1].weight;
}

// Few are kept of a vocabulary: a heap gives them without sorting the rest. Top-p is of what top-k keeps.
size_t Sampler::keep_most_probable(double total) {
  const size_t all = candidates_.size();
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

// Of the last `count` candidates.
int32_t Sampler::draw(size_t count) {
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

int32_t Sampler::next(View<const float, 1> logits) {
  if (options_.temperature == 0.0) return greedy(logits);
  const double all = weigh(logits);
  return draw(keep_most_probable(all));
}

// --- of the largest ---

// As of all logits, if these are all.
double Sampler::weigh(const LargestLogits& of) {
  const float largest = *std::ranges::max_element(of.values);
  double total = 0.0;
  candidates_.clear();
  for (size_t i = 0; i < of.ids.size(); ++i) {
    candidates_.push_back({largest_logits::weight(of.values[i], largest, options_.temperature), of.ids[i]});
    total += candidates_.back().weight;
  }
  if (std::ssize(of.ids) == of.numbers) drop_improbable(total);
  std::ranges::make_heap(candidates_, less_probable);
  return total;
}

// What is not among them weighs at most as the lightest does, but for exp's own error.
size_t Sampler::first_of_all() const {
  const double lightest = std::ranges::min_element(candidates_, less_probable)->weight * (1.0 + 0x1p-50);
  return static_cast<size_t>(std::ranges::count_if(
      candidates_, [lightest](const Candidate& candidate) { return candidate.weight > lightest; }));
}

std::optional<int32_t> Sampler::next(const LargestLogits& of) {
  if (of.numbers == 0) fail_of_nan();
  if (options_.temperature == 0.0)
    return of.ids[static_cast<size_t>(std::ranges::max_element(of.values) - of.values.begin())];
  const double here = weigh(of);
  const int64_t found = std::ssize(of.ids);
  const bool keeps_some = options_.top_k > 0 && options_.top_k < of.numbers;
  if (keeps_some && found < of.numbers && options_.top_k > static_cast<int64_t>(first_of_all()))
    return std::nullopt;
  if (keeps_some || found == of.numbers) return draw(keep_most_probable(here));
  // Eight times what two sums of so many weights differ by covers every rounding on the way.
  return next_of_some(of.total, 8.0 * largest_logits::weight_slack(of.numbers) * of.total);
}

// Without top-k. The total, and every sum over the order, is within `slack` of the definition's.
std::optional<int32_t> Sampler::next_of_some(double total, double slack) {
  const size_t known = first_of_all();
  const Range wanted{options_.top_p * total - slack, options_.top_p * total + slack};
  double kept = 0.0, last = 0.0;
  size_t count = 0;
  while (count < known && (count == 0 || kept < wanted.low)) kept += last = pop(count++);
  if (count > 0 && kept >= wanted.high) return draw(count);
  if (count == 0 || kept >= wanted.low) return std::nullopt;
  // More are kept than are known: of the weights beyond, none exceeds the last.
  return draw_of_some(count, {wanted.low, std::min(wanted.high + last, total + slack)}, slack);
}

// Of `popped` candidates that are kept for certain, among others.
std::optional<int32_t> Sampler::draw_of_some(size_t popped, Range kept, double slack) {
  Random random = random_;
  const double part = random.uniform();
  Range left{part * kept.low - slack, part * kept.high + slack};
  for (size_t i = 0; i < popped; ++i) {
    const Candidate& candidate = candidates_[candidates_.size() - 1 - i];
    left = {left.low - candidate.weight, left.high - candidate.weight};
    if (left.high < 0.0) {
      random_ = random;
      return candidate.id;
    }
    if (left.low < 0.0) return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace fulgurite::execute
