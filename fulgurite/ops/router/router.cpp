#include "fulgurite/ops/router/router.h"

#include "fulgurite/core/check.h"
#include "fulgurite/core/error.h"

namespace fulgurite::router {

namespace {

// Every id names a row of the table, and its row as many experts as there are columns.
void check_choices(const Problem& problem, const Args& args) {
  const Check check("router");
  const int64_t chosen = problem.experts_per_token;
  check.tensor("ids", args.ids, {args.x.extent[0]})
      .tensor("hash_table", args.hash_table, {problem.vocabulary, chosen});
  if (!reads_values(problem.setting)) return;
  for (int64_t t = 0; t < args.ids.extent[0]; ++t) {
    check.range("ids", args.ids(t), 0, problem.vocabulary - 1);
    for (int64_t j = 0; j < chosen; ++j) {
      const int64_t expert = args.hash_table(args.ids(t), j);
      check.range("hash_table", expert, 0, problem.experts - 1);
      for (int64_t i = 0; i < j; ++i)
        if (args.hash_table(args.ids(t), i) == expert)
          fail(ErrorKind::kRequest, "router: hash_table: row {} names expert {} twice", args.ids(t), expert);
    }
  }
}

}  // namespace

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.groups > 0 && problem.experts % problem.groups == 0 &&
                       problem.groups_kept <= problem.groups &&
                       problem.experts_per_token <= problem.groups_kept * (problem.experts / problem.groups),
                   "router: {} of {} experts, {} of {} groups", problem.experts_per_token, problem.experts,
                   problem.groups_kept, problem.groups);
  FULGURITE_ASSERT(!problem.hashed || problem.groups == 1, "router: a hash table among {} groups",
                   problem.groups);
  const int64_t tokens = args.x.extent[0];
  Check("router")
      .tensor("x", args.x, activation_type(problem.setting.numerics), {tokens, problem.hidden})
      .tensor("bias", args.bias, {problem.hashed ? 0 : problem.experts})
      .tensor("expert_ids", args.expert_ids, {tokens, problem.experts_per_token})
      .tensor("expert_weights", args.expert_weights, {tokens, problem.experts_per_token});
  FULGURITE_ASSERT(args.weight != nullptr && args.weight->out == problem.experts &&
                       args.weight->in == problem.hidden && format_of(*args.weight) == problem.weight,
                   "router: the weight is not the one that was planned");
  if (problem.hashed) check_choices(problem, args);
}

}  // namespace fulgurite::router
