#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32}), takes(numerics.indexer_wk, {IndexerWk::kFp32}),
       takes(numerics.gate, {Gate::kFp32, Gate::kBf16}), takes(numerics.gate_weight, {GateWeight::kStored}),
       takes(numerics.mma, {Mma::kExact})});
}

float dot(View<const float, 1> x, const PreparedMatrix& weight, int64_t row) {
  double sum = 0.0;
  for (int64_t i = 0; i < weight.in; ++i) sum += static_cast<double>(x(i)) * exact_element(weight, row, i);
  return static_cast<float>(sum);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 2> x = args.x.as<float>();
  const View<float, 2> k = args.k.as<float>();
  const bool rounds_gate = problem.setting.numerics.gate == Gate::kBf16;
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t d = 0; d < problem.head_dim; ++d) k(t, d) = dot(x[t], *args.wk, d);
    for (int64_t h = 0; h < problem.heads; ++h) {
      const float sum = dot(x[t], *args.gate_weight, h);
      args.gate(t, h) = rounds_gate ? round_to_bf16(sum) : sum;
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::indexer_projection
