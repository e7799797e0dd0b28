#include "fulgurite/ops/linear/linear.h"

#include <algorithm>

#include "fulgurite/core/check.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite::linear {
bool quantizes(const Problem& problem) {
  return has_scales(problem.weight) && problem.setting.numerics.activation_quant == ActivationQuant::kE4m3;
}

WeightReading reading_of(const Problem& problem) {
  if (problem.reading) return *problem.reading;
  const bool exact =
      problem.setting.numerics.activation == Activation::kFp32 || problem.output == Output::kF32;
  return exact ? WeightReading::kExact : WeightReading::kBf16;
}

int64_t group_columns(const MatrixFormat& weight) { return std::min(kActivationGroup, weight.block.columns); }

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  Check("linear")
      .tensor("x", args.x, type, {tokens, problem.in})
      .tensor("y", args.y, problem.output == Output::kF32 ? DType::kF32 : type, {tokens, problem.out});
  FULGURITE_ASSERT(args.weight != nullptr && args.weight->out == problem.out && args.weight->in == problem.in,
                   "linear: the weight is not the one that was planned");
  if (format_of(*args.weight) != problem.weight)
    fail(ErrorKind::kRequest, "linear: weight: expected {}, found {}", describe(problem.weight),
         describe(format_of(*args.weight)));
}

}  // namespace fulgurite::linear
