#pragma once
// How often each row of a plan must have run for a given list of passes, and where what was counted is
// something else: a plan that is printed and not what runs proves nothing.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/plan/plan.h"

namespace fulgurite::plan {

// One call of forward or next_tokens.
struct Pass {
  int64_t tokens = 0;  // of all chunks
  int64_t chunks = 1;  // sequences
  // A tap that replaces a layer's output from a token within the pass on: the norm that follows is called
  // twice, for the tokens before and for the others.
  struct Split {
    int64_t layer = 0;
    int64_t first_token = 0;
  };
  std::vector<Split> splits{};
  bool chooses = false;  // next_tokens, of a token at least
};

// `tokens` of one sequence, in passes of at most `chunk`.
std::vector<Pass> chunked(int64_t tokens, int64_t chunk);

// Of each row of plan.rows, in their order. Asks the rows alone, never the steps that run: rows are what is
// printed.
std::vector<RowCount> predicted_counts(const Plan& plan, std::span<const Pass> passes);

// No counts yet, one for each row.
std::vector<RowCount> no_counts(const Plan& plan);

struct CountDifference {
  size_t row = 0;  // of plan.rows
  RowCount expected, counted;
};
// Rows that were called through an implementation that the plan did not choose, too often, too seldom or with
// other tokens; none: what ran is the plan.
std::vector<CountDifference> compare_counts(const Plan& plan, std::span<const Pass> passes,
                                            std::span<const RowCount> counted);

// "layer 1 linear q_a: expected 2 calls of cpu_fp8 with 9 tokens, counted 0 calls with 0 tokens and 2 calls
// of reference, which the plan did not choose"
std::string describe(const Plan& plan, const CountDifference& difference);

}  // namespace fulgurite::plan
