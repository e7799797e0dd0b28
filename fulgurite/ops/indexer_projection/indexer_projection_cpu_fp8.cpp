// Where a knob makes one output an fp8 linear, or the gate's weight is read at an exact value that is no
// bf16, the two have no operand in common: a chain of two linears.

#include <algorithm>

#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

// The row of linear that does an output; its own rule says whether it can.
const linear::Implementation& row_of(const linear::Problem& problem) {
  if (linear::quantizes(problem)) return linear::kCpuFp8;
  const bool bf16_weight =
      problem.weight.form == MatrixForm::kBF16 || linear::reading_of(problem) == WeightReading::kBf16;
  const bool bf16_operands = problem.setting.numerics.activation == Activation::kBf16 && bf16_weight;
  return bf16_operands ? linear::kCpuBf16 : linear::kCpu;
}

// linear reads a weight as the type of its output says; wk is read as a knob says.
Support takes_reading(const Problem& problem) {
  const linear::Problem key = key_linear(problem);
  if (linear::quantizes(key) || problem.wk.form == MatrixForm::kBF16 ||
      linear::reading_of(key) == key_reading(problem))
    return std::nullopt;
  return Refusal{"wk in " + describe(problem.wk) + " with indexer_wk = " +
                 std::string(value_name(problem.setting.numerics.indexer_wk)) + ", no linear reads it so"};
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const bool exact_gate = n.activation == Activation::kBf16 && problem.gate_weight.form != MatrixForm::kBF16;
  Support fp8;
  if (n.gate_weight != GateWeight::kFp8 && !exact_gate) fp8 = takes(n.indexer_wk, {IndexerWk::kFp8});
  const linear::Problem key = key_linear(problem), gate = gate_linear(problem);
  return first_refusal({fp8, kReference.supports(problem), takes_reading(problem), row_of(key).supports(key),
                        row_of(gate).supports(gate)});
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  const linear::Problem key = key_linear(problem), gate = gate_linear(problem);
  return std::max(row_of(key).workspace_bytes(key, threads), row_of(gate).workspace_bytes(gate, threads));
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const linear::Problem key = key_linear(problem), gate = gate_linear(problem);
  row_of(key).run(key, {args.x, args.wk, args.k}, lane);
  row_of(gate).run(gate, {args.x, args.gate_weight, args.gate}, lane);
  if (problem.setting.numerics.gate == Gate::kFp32) return;
  for (int64_t t = 0; t < args.x.extent[0]; ++t)
    for (int64_t h = 0; h < problem.heads; ++h) args.gate(t, h) = round_to_bf16(args.gate(t, h));
}

}  // namespace

const Implementation kCpuFp8{"cpu_fp8", supports, workspace_bytes, run};

}  // namespace fulgurite::indexer_projection
