#include "fulgurite/execute/sampler.h"

#include <algorithm>
#include <cmath>

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

// exp((logit - max) / temperature), most probable first.
void Sampler::weigh(View<const float, 1> logits) {
  const double largest = logits(greedy(logits));
  candidates_.clear();
  for (int64_t i = 0; i < logits.extent[0]; ++i) {
    if (std::isnan(logits(i))) continue;
    // The largest weighs 1 also where it is infinite.
    const double distance = logits(i) == largest ? 0.0 : (logits(i) - largest) / options_.temperature;
    candidates_.push_back({std::exp(distance), static_cast<int32_t>(i)});
  }
  std::ranges::sort(candidates_, [](const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight > b.weight : a.id < b.id;
  });
}

void Sampler::keep_most_probable() {
  if (options_.top_k > 0 && static_cast<size_t>(options_.top_k) < candidates_.size())
    candidates_.resize(static_cast<size_t>(options_.top_k));
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  double kept = 0.0;
  size_t count = 0;
  while (count < candidates_.size() && (count == 0 || kept < options_.top_p * total))
    kept += candidates_[count++].weight;
  candidates_.resize(count);
}

int32_t Sampler::next(View<const float, 1> logits) {
  if (options_.temperature == 0.0) return greedy(logits);
  weigh(logits);
  keep_most_probable();
  double total = 0.0;
  for (const Candidate& candidate : candidates_) total += candidate.weight;
  double left = random_.uniform() * total;
  for (const Candidate& candidate : candidates_) {
    left -= candidate.weight;
    if (left < 0.0) return candidate.id;
  }
  return candidates_.back().id;
}

}  // namespace fulgurite::execute
