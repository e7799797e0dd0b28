#include "fulgurite/ops/indexer_projection/indexer_projection.h"

#include "fulgurite/core/check.h"

namespace fulgurite::indexer_projection {
namespace {

linear::Problem linear_of(const Problem& problem, bool fp8, int64_t out, const MatrixFormat& weight,
                          linear::Output output) {
  Setting setting = problem.setting;
  setting.numerics.activation_quant = fp8 ? ActivationQuant::kE4m3 : ActivationQuant::kNone;
  return {setting, problem.hidden, out, weight, output, problem.largest_batch};
}

}  // namespace

linear::Problem key_linear(const Problem& problem) {
  return linear_of(problem, problem.setting.numerics.indexer_wk == IndexerWk::kFp8, problem.head_dim,
                   problem.wk, linear::Output::kActivation);
}

linear::Problem gate_linear(const Problem& problem) {
  return linear_of(problem, problem.setting.numerics.gate_weight == GateWeight::kFp8, problem.heads,
                   problem.gate_weight, linear::Output::kF32);
}

WeightReading key_reading(const Problem& problem) {
  return problem.setting.numerics.indexer_wk == IndexerWk::kBf16 ? WeightReading::kBf16
                                                                 : WeightReading::kExact;
}

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0];
  Check("indexer_projection")
      .tensor("x", args.x, {tokens, problem.hidden})
      .tensor("k", args.k, {tokens, problem.head_dim})
      .tensor("gate", args.gate, {tokens, problem.heads});
  FULGURITE_ASSERT(args.wk != nullptr && args.wk->out == problem.head_dim && args.wk->in == problem.hidden &&
                       format_of(*args.wk) == problem.wk,
                   "indexer_projection: wk is not the one that was planned");
  FULGURITE_ASSERT(args.gate_weight != nullptr && args.gate_weight->out == problem.heads &&
                       args.gate_weight->in == problem.hidden &&
                       format_of(*args.gate_weight) == problem.gate_weight,
                   "indexer_projection: the gate weight is not the one that was planned");
  const DType type = problem.setting.numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
  FULGURITE_ASSERT(args.x.dtype == type && args.k.dtype == type,
                   "indexer_projection: x is {}, k {}, planned was {}", name(args.x.dtype),
                   name(args.k.dtype), name(type));
}

}  // namespace fulgurite::indexer_projection
