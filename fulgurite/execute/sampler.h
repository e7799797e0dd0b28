#pragma once
// Logits -> the next token. The same seed and logits give the same token on every machine with the same exp.

#include <cstdint>
#include <vector>

#include "fulgurite/core/random.h"
#include "fulgurite/core/view.h"

namespace fulgurite::execute {

struct SamplerOptions {
  double temperature = 0.7;  // 0: greedy
  double top_p = 0.95;       // keep the smallest set of most probable tokens that holds so much; 1: all
  int64_t top_k = 0;         // keep so many most probable tokens; 0: all
  uint64_t seed = 1;
};

class Sampler {
 public:
  // Throws Error{kRequest} for an option outside its range.
  Sampler(const SamplerOptions& options, int64_t vocabulary);

  // Ties go to the lower id. Throws Error{kRequest} if no logit is a number.
  int32_t next(View<const float, 1> logits);

 private:
  struct Candidate {
    double weight;
    int32_t id;
  };
  static bool less_probable(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id > b.id;
  }
  // The candidates as a heap, those that cannot be kept left out; returns the sum of all weights, ids ascending.
  double weigh(View<const float, 1> logits);
  void drop_improbable(double total);
  // Moves as many of the most probable to the end of the candidates, the most probable last, as the options
  // keep; returns how many.
  size_t keep_most_probable(double total);

  SamplerOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;
};

// The id of the largest logit, the lower one of equals; NaN never. Throws Error{kRequest} if no logit is a
// number.
int32_t greedy(View<const float, 1> logits);

}  // namespace fulgurite::execute
