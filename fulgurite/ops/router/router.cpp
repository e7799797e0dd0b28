#include "fulgurite/ops/router/router.h"

#include "fulgurite/core/check.h"

namespace fulgurite::router {

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.groups > 0 && problem.experts % problem.groups == 0 &&
                       problem.groups_kept <= problem.groups &&
                       problem.experts_per_token <= problem.groups_kept * (problem.experts / problem.groups),
                   "router: {} of {} experts, {} of {} groups", problem.experts_per_token, problem.experts,
                   problem.groups_kept, problem.groups);
  const int64_t tokens = args.x.extent[0];
  Check("router")
      .tensor("x", args.x, activation_type(problem.setting.numerics), {tokens, problem.hidden})
      .tensor("bias", args.bias, {problem.experts})
      .tensor("expert_ids", args.expert_ids, {tokens, problem.experts_per_token})
      .tensor("expert_weights", args.expert_weights, {tokens, problem.experts_per_token});
  FULGURITE_ASSERT(args.weight != nullptr && args.weight->out == problem.experts &&
                       args.weight->in == problem.hidden && format_of(*args.weight) == problem.weight,
                   "router: the weight is not the one that was planned");
}

}  // namespace fulgurite::router
