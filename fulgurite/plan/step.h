#pragma once
// One planned operation: its problem, and the implementation of each range of token counts. Every call is
// counted for the row of the plan that chose it (plan/counts.h compares).

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "fulgurite/core/assert.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::plan {

// How often a row of the plan has run. Its texts are the plan's own and the catalog's.
struct RowCount {
  std::string_view planned{};    // the implementation that the row names
  int64_t calls = 0;             // of that one
  int64_t tokens = 0;            // of these calls together
  int64_t unplanned_calls = 0;   // of any other one
  std::string_view unplanned{};  // the last such

  void add(std::string_view implementation, int64_t tokens_of_call) {
    if (implementation != planned) {
      unplanned_calls += 1;
      unplanned = implementation;
      return;
    }
    calls += 1;
    tokens += tokens_of_call;
  }
  bool operator==(const RowCount&) const = default;
};

class Conductor;  // plan/conductor.h

// Where steps run, and where their calls are counted: one count a row of the plan. Steps are called by one
// thread: a call costs two additions and no atomic.
struct CountedLane {
  Lane lane;
  std::span<RowCount> counts;
  Conductor* conductor = nullptr;  // carries the calls out, if there is one
};

// One call of a step, as a conductor sees it.
template <class Problem, class Args>
struct StepCall {
  const Implementation<Problem, Args>& implementation;
  const Problem& problem;
  const Args& args;
  int64_t tokens;
  int64_t row;  // of Plan::rows
  const Lane& lane;

  void run() const { implementation.run(problem, args, lane); }
};

// Defined in plan/conductor.cpp, for each operation of the catalog.
template <class Problem, class Args>
void conduct(Conductor& conductor, const StepCall<Problem, Args>& call);

template <class Problem, class Args>
struct Step {
  struct Choice {
    int64_t last_token = INT64_MAX;  // it runs calls of up to so many tokens
    const Implementation<Problem, Args>* implementation = nullptr;
    int64_t row = -1;  // of Plan::rows, which says so
  };

  Problem problem;
  std::vector<Choice> choices;  // ascending; the last one is open

  void run(const Args& args, int64_t tokens, const CountedLane& on) const {
    for (const Choice& choice : choices)
      if (tokens <= choice.last_token) return run(choice, args, tokens, on);
    FULGURITE_ASSERT(false, "no row of the plan takes {} tokens", tokens);
  }

 private:
  void run(const Choice& choice, const Args& args, int64_t tokens, const CountedLane& on) const {
    FULGURITE_ASSERT(choice.row >= 0 && choice.row < static_cast<int64_t>(on.counts.size()),
                     "{} runs for row {} of {}", choice.implementation->name, choice.row, on.counts.size());
    on.counts[static_cast<size_t>(choice.row)].add(choice.implementation->name, tokens);
    const StepCall<Problem, Args> call{*choice.implementation, problem, args, tokens, choice.row, on.lane};
    if (on.conductor != nullptr) return conduct(*on.conductor, call);
    call.run();
  }
};

}  // namespace fulgurite::plan
