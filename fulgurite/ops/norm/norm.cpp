#include "fulgurite/ops/norm/norm.h"

#include "fulgurite/core/check.h"

namespace fulgurite::norm {

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0], width = problem.width;
  const DType type = activation_type(problem.setting.numerics);
  const Check clause("norm");
  clause.tensor("x", args.x, type, {tokens, width});
  if (args.added) clause.tensor("added", args.added, type, {tokens, width});
  if (args.replaced) clause.tensor("replaced", args.replaced, {tokens, width});
  clause.tensor("weight", args.weight, {width});
  if (args.sum) clause.tensor("sum", args.sum, type, {tokens, width});
  clause.tensor("out", args.out, type, {tokens, width});
}

}  // namespace fulgurite::norm
