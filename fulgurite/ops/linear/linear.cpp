#include "fulgurite/ops/linear/linear.h"

#include "fulgurite/core/check.h"

namespace fulgurite::linear {

Support sums_of_exact_weights(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  Support quantization;
  if (problem.weight.form == MatrixForm::kE4M3Blocks)
    quantization = takes(n.activation_quant, {ActivationQuant::kNone});
  return first_refusal({takes(n.activation, {Activation::kFp32}), takes(n.mma, {Mma::kExact}), quantization});
}

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0];
  Check("linear").tensor("x", args.x, {tokens, problem.in}).tensor("y", args.y, {tokens, problem.out});
  FULGURITE_ASSERT(args.weight != nullptr && args.weight->out == problem.out &&
                       args.weight->in == problem.in && format_of(*args.weight) == problem.weight,
                   "linear: the weight is not the one that was planned");
}

}  // namespace fulgurite::linear
