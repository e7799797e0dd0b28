#include "fulgurite/ops/rotary/rotary.h"

#include "fulgurite/core/check.h"

namespace fulgurite::rotary {

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.dim % 2 == 0, "rotary: {} dimensions have no pairs", problem.dim);
  const int64_t tokens = args.x.extent[0];
  const Check clause("rotary");
  clause.tensor("x", args.x, activation_type(problem.setting.numerics), {tokens, problem.heads, problem.dim})
      .tensor("places", args.places, {tokens});
  clause.tensor("cosine", args.table.cosine, {problem.positions, problem.dim / 2})
      .tensor("sine", args.table.sine, {problem.positions, problem.dim / 2});
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t)
    clause.range("position", args.places(t).position, 0, problem.positions - 1);
}

}  // namespace fulgurite::rotary
