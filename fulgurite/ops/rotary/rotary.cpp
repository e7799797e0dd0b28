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

void rotate(Layout layout, const float* cosine, const float* sine, int64_t dim, float* x) {
  const int64_t pairs = dim / 2;
  const int64_t step = layout == Layout::kInterleaved ? 2 : 1;
  const int64_t partner = layout == Layout::kInterleaved ? 1 : pairs;
  for (int64_t i = 0; i < pairs; ++i) {
    const float a = x[i * step];
    const float b = x[i * step + partner];
    x[i * step] = a * cosine[i] - b * sine[i];
    x[i * step + partner] = a * sine[i] + b * cosine[i];
  }
}

}  // namespace fulgurite::rotary
