#pragma once
// Logits -> the next token. The same seed and logits give the same token on every machine with the same exp.
//
//   weight   w(i) = exp((logit(i) - largest) / temperature) in double, the largest's 1; NaN is no candidate
//   order    the heaviest first, of equals the lower id
//   kept     with top_k, so many first; of what they weigh (without top_k: of all weights, added over ascending ids) the fewest
//            that weigh top_p of it, at least one; sums over the order
//   draw     left = uniform() * (the kept weights added from the lightest up); from the heaviest on left -= w(i), and the first that
//            makes it negative is chosen, else the last one kept
//   greedy   (temperature 0) the largest logit, of equals the lower id
//
// Logits of a GPU (ops/largest_logits): the largest of them and an approximate sum of all weights settle a draw where every
// comparison that the definition makes comes out the same for any sum within its tolerance, and every candidate that
// matters is among them. Then the token is the definition's; otherwise the definition is asked, with all logits.

#include <cstdint>
#include <optional>
#include <span>
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

// A row of outputs of ops/largest_logits.
struct LargestLogits {
  std::span<const int32_t> ids;  // ascending
  std::span<const float> values;
  double total = 0.0;  // at the sampler's temperature
  int64_t numbers = 0;
};

class Sampler {
 public:
  // Throws Error{kRequest} for an option outside its range.
  Sampler(const SamplerOptions& options, int64_t vocabulary);

  // Throws Error{kRequest} if no logit is a number.
  int32_t next(View<const float, 1> logits);
  // The same token, if these settle it; if not, nothing has happened. Throws as the other.
  std::optional<int32_t> next(const LargestLogits& largest);

  const SamplerOptions& options() const { return options_; }

 private:
  struct Candidate {
    double weight;
    int32_t id;
  };
  struct Range {
    double low, high;
  };
  static bool less_probable(const Candidate& a, const Candidate& b) {
    return a.weight != b.weight ? a.weight < b.weight : a.id > b.id;
  }
  // The candidates as a heap, those that cannot be kept left out; returns the sum of all weights, ids ascending.
  double weigh(View<const float, 1> logits);
  void drop_improbable(double total);
  // The heap's most probable but for the `popped` before, moved behind the rest of the heap; returns its weight.
  double pop(size_t popped);
  // Moves as many of the most probable to the end of the candidates, the most probable last, as the options
  // keep; returns how many.
  size_t keep_most_probable(double total);
  int32_t draw(size_t kept);

  double weigh(const LargestLogits& largest);
  // How many candidates of the heap nothing precedes that is not among them.
  size_t first_of_all() const;
  std::optional<int32_t> next_of_some(double total, double slack);
  std::optional<int32_t> draw_of_some(size_t popped, Range kept, double slack);

  SamplerOptions options_;
  Random random_;
  std::vector<Candidate> candidates_;
};

// The id of the largest logit, the lower one of equals; NaN never. Throws Error{kRequest} if no logit is a
// number.
int32_t greedy(View<const float, 1> logits);

}  // namespace fulgurite::execute
