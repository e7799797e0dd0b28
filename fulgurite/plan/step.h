#pragma once
// One planned operation: its problem, and the implementation of each range of token counts.

#include <cstdint>
#include <vector>

#include "fulgurite/core/assert.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::plan {

template <class Problem, class Args>
struct Step {
  struct Choice {
    int64_t last_token = INT64_MAX;  // it runs calls of up to so many tokens
    const Implementation<Problem, Args>* implementation = nullptr;
  };

  Problem problem;
  std::vector<Choice> choices;  // ascending; the last one is open

  void run(const Args& args, int64_t tokens, const Lane& lane) const {
    for (const Choice& choice : choices)
      if (tokens <= choice.last_token) return choice.implementation->run(problem, args, lane);
    FULGURITE_ASSERT(false, "no row of the plan takes {} tokens", tokens);
  }
};

}  // namespace fulgurite::plan
