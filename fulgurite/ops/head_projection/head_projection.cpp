#include "fulgurite/ops/head_projection/head_projection.h"

#include "fulgurite/core/check.h"

namespace fulgurite::head_projection {

WeightReading reading_of(const Problem& problem) {
  return problem.setting.numerics.activation == Activation::kFp32 ? WeightReading::kExact
                                                                  : WeightReading::kBf16;
}

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(problem.first_row + problem.rows <= problem.rows_per_head,
                   "head_projection: rows [{}, {}) of {} per head", problem.first_row,
                   problem.first_row + problem.rows, problem.rows_per_head);
  const bool from_rows = problem.direction == Direction::kFromRows;
  const int64_t tokens = args.x.extent[0];
  Check("head_projection")
      .tensor("x", args.x, {tokens, problem.heads, from_rows ? problem.rows : problem.latent})
      .tensor("y", args.y, {tokens, problem.heads, from_rows ? problem.latent : problem.rows});
  FULGURITE_ASSERT(args.weight != nullptr && args.weight->out == problem.heads * problem.rows_per_head &&
                       args.weight->in == problem.latent && format_of(*args.weight) == problem.weight,
                   "head_projection: the weight is not the one that was planned");
  const DType type = problem.setting.numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
  FULGURITE_ASSERT(args.x.dtype == type && args.y.dtype == type,
                   "head_projection: x is {}, y {}, planned was {}", name(args.x.dtype), name(args.y.dtype),
                   name(type));
}

}  // namespace fulgurite::head_projection
