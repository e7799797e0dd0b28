// The row of Hopper: what it takes. Its kernels are indexer_prepare_cuda_*.cu, which not every build has.

#include "fulgurite/ops/indexer_prepare/indexer_prepare_rules.h"

namespace fulgurite::indexer_prepare {
namespace {

Support takes_shape(const Problem& problem) {
  if (problem.head_dim != 128 || problem.rope != 64 || problem.rope_first % 64 != 0)
    return Refusal{
        fmt::format("{} dimensions, {} of them rotated from {} on, takes 128, the first or last 64",
                    problem.head_dim, problem.rope, problem.rope_first)};
  if (problem.keys && problem.page_tokens != kPageTokens)
    return Refusal{fmt::format("keys in pages of {} tokens, takes {}", problem.page_tokens, kPageTokens)};
  return std::nullopt;
}

// fp4: of queries alone.
Support takes_quant(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  if (!problem.keys && n.index_quant == IndexQuant::kFp4) return takes(n.index_scale, {IndexScale::kPow2});
  return takes(n.index_quant, {IndexQuant::kFp8});
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes_sm(problem.setting.target, 90), takes(n.activation, {Activation::kBf16}),
                        takes_quant(problem), takes(n.rsqrt, {Rsqrt::kCorrect, Rsqrt::kTwoStep}),
                        takes_shape(problem)});
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::indexer_prepare
