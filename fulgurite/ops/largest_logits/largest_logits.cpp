#include "fulgurite/ops/largest_logits/largest_logits.h"

#include "fulgurite/core/check.h"

namespace fulgurite::largest_logits {

void check(const Problem& problem, const Args& args) {
  const int64_t rows = args.logits.extent[0], count = args.ids.extent[1];
  Check("largest_logits")
      .tensor("logits", args.logits, {rows, problem.vocabulary})
      .range("rows", rows, 0, problem.largest_rows)
      .range("count", count, 1, problem.most)
      .tensor("temperatures", args.temperatures, {rows})
      .tensor("ids", args.ids, {rows, count})
      .tensor("values", args.values, {rows, count})
      .tensor("totals", args.totals, {rows})
      .tensor("numbers", args.numbers, {rows});
}

}  // namespace fulgurite::largest_logits
