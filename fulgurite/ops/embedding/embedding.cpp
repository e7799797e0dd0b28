#include "fulgurite/ops/embedding/embedding.h"

#include "fulgurite/core/check.h"

namespace fulgurite::embedding {

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.ids.extent[0];
  const Check clause("embedding");
  clause.tensor("ids", args.ids, {tokens})
      .tensor("out", args.out, activation_type(problem.setting.numerics), {tokens, problem.hidden});
  for (int64_t t = 0; reads_values(problem.setting) && t < tokens; ++t)
    clause.range("ids", args.ids(t), 0, problem.vocabulary - 1);
  FULGURITE_ASSERT(args.table != nullptr && args.table->out == problem.vocabulary &&
                       args.table->in == problem.hidden && format_of(*args.table) == problem.table,
                   "embedding: the table is not the one that was planned");
}

}  // namespace fulgurite::embedding
