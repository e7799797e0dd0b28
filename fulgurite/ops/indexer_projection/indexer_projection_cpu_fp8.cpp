// A chain of two linears: where the two outputs have no operands in common, as where a knob makes one an fp8
// linear, and where one pass is left out, as to see what it saves.

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

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  const linear::Problem key = key_linear(problem), gate = gate_linear(problem);
  const bool read_apart =
      problem.gate_weight.form == MatrixForm::kF32 && linear::reading_of(key) != linear::reading_of(gate);
  Support fp8;
  if (n.gate_weight != GateWeight::kFp8 && !read_apart && one_pass(problem))
    fp8 = takes(n.indexer_wk, {IndexerWk::kFp8});
  return first_refusal({fp8, takes(problem.setting.numerics.mma, {Mma::kExact}), kReference.supports(problem),
                        row_of(key).supports(key), row_of(gate).supports(gate)});
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
