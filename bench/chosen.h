#pragma once
// The row of the catalog that runs a case, and the problem that its operands are made for: a row may state another
// than it is asked (Implementation::states), with weights in another form and sums in an order of its own.

#include <fmt/ranges.h>

#include "bench/case.h"
#include "fulgurite/core/error.h"

namespace fulgurite::bench {

// Cases make weights in the form of a checkpoint, or in that which a row states.
template <class Problem, class Args>
Support reads_as_stored(const Implementation<Problem, Args>& row, const Problem& problem) {
  if constexpr (requires { problem.weight; }) {
    if (row.reads == nullptr || row.reads(problem) == problem.weight) return std::nullopt;
    return Refusal{"reads the weight as " + describe(row.reads(problem)) + ", which no case makes"};
  }
  return std::nullopt;
}

template <class Problem, class Args>
struct Chosen {
  const Implementation<Problem, Args>* row = nullptr;
  Problem problem;                   // as the row states it: what its operands are made for
  std::vector<std::string> refused;  // rows before it, with their reasons
};

// As the planner does, or the row that the request names. Throws Error{kPlan}.
template <class Problem, class Args>
Chosen<Problem, Args> choose(const Request& request, plan::Rows<Implementation<Problem, Args>> rows,
                             const Problem& problem) {
  Chosen<Problem, Args> choice;
  for (const auto* const row : rows) {
    if (row->device != request.setting.target.kind) continue;
    if (!request.implementation.empty() && request.implementation != row->name) continue;
    Support refusal = row->supports(problem);
    if (!refusal && row->run == nullptr) refusal = Refusal{"this build has no kernel of it"};
    if (!refusal) refusal = reads_as_stored(*row, problem);
    if (!refusal) {
      choice.row = row;
      choice.problem = row->states != nullptr ? row->states(problem) : problem;
      return choice;
    }
    choice.refused.push_back(std::string(row->name) + ": " + refusal->reason);
  }
  fail(ErrorKind::kPlan, "{}",
       choice.refused.empty() ? "has no such implementation"
                              : fmt::format("refused: {}", fmt::join(choice.refused, "; ")));
}

}  // namespace fulgurite::bench
