#include "fulgurite/ops/indexer_projection/indexer_projection.h"

#include "fulgurite/core/check.h"

namespace fulgurite::indexer_projection {
namespace {

Setting with_operands(Setting setting, bool fp8) {
  setting.numerics.activation_quant = fp8 ? ActivationQuant::kE4m3 : ActivationQuant::kNone;
  return setting;
}

Support as_bf16(const char* what, const linear::Problem& problem) {
  if (linear::reading_of(problem) == WeightReading::kBf16 || problem.weight.form == MatrixForm::kBF16)
    return std::nullopt;
  return Refusal{what + (" in " + describe(problem.weight)) + " read at its exact value, takes bf16"};
}

WeightReading reading(bool rounded) { return rounded ? WeightReading::kBf16 : WeightReading::kExact; }

}  // namespace

linear::Problem key_linear(const Problem& problem) {
  const IndexerWk wk = problem.setting.numerics.indexer_wk;
  return {with_operands(problem.setting, wk == IndexerWk::kFp8),
          problem.hidden,
          problem.head_dim,
          problem.wk,
          linear::Output::kActivation,
          problem.largest_batch,
          reading(wk == IndexerWk::kBf16),
          problem.order};
}

linear::Problem gate_linear(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return {with_operands(problem.setting, numerics.gate_weight == GateWeight::kFp8),
          problem.hidden,
          problem.heads,
          problem.gate_weight,
          linear::Output::kF32,
          problem.largest_batch,
          reading(numerics.activation != Activation::kFp32),
          problem.order};
}

Support one_pass(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const Support refusal = first_refusal(
      {takes(n.activation, {Activation::kBf16}), takes(n.indexer_wk, {IndexerWk::kFp32, IndexerWk::kBf16}),
       takes(n.gate_weight, {GateWeight::kStored}), as_bf16("wk", key_linear(problem)),
       as_bf16("gate weight", gate_linear(problem))});
  if (!refusal) return std::nullopt;
  return Refusal{"one pass needs wk and gate in bf16: " + refusal->reason};
}

void check(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0];
  const DType type = activation_type(problem.setting.numerics);
  Check("indexer_projection")
      .tensor("x", args.x, type, {tokens, problem.hidden})
      .tensor("k", args.k, type, {tokens, problem.head_dim})
      .tensor("gate", args.gate, {tokens, problem.heads});
  FULGURITE_ASSERT(args.wk != nullptr && args.wk->out == problem.head_dim && args.wk->in == problem.hidden &&
                       format_of(*args.wk) == problem.wk,
                   "indexer_projection: wk is not the one that was planned");
  FULGURITE_ASSERT(args.gate_weight != nullptr && args.gate_weight->out == problem.heads &&
                       args.gate_weight->in == problem.hidden &&
                       format_of(*args.gate_weight) == problem.gate_weight,
                   "indexer_projection: the gate weight is not the one that was planned");
}

}  // namespace fulgurite::indexer_projection
