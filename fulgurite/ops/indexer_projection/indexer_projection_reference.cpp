#include "fulgurite/core/bf16.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

Support takes_weight(const char* what, bool fp8, const MatrixFormat& weight) {
  if (fp8 && !has_scales(weight))
    return Refusal{what + (" in " + describe(weight)) + ", the fp8 linear takes a quantized weight"};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({linear::kReference.supports(key_linear(problem)),
                        linear::kReference.supports(gate_linear(problem)),
                        takes_weight("wk", n.indexer_wk == IndexerWk::kFp8, problem.wk),
                        takes_weight("gate weight", n.gate_weight == GateWeight::kFp8, problem.gate_weight)});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  linear::kReference.run(key_linear(problem), {args.x, args.wk, args.k}, {});
  linear::kReference.run(gate_linear(problem), {args.x, args.gate_weight, args.gate}, {});
  if (problem.setting.numerics.gate == Gate::kFp32) return;
  for (int64_t t = 0; t < args.x.extent[0]; ++t)
    for (int64_t h = 0; h < problem.heads; ++h) args.gate(t, h) = round_to_bf16(args.gate(t, h));
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::indexer_projection
