// The row of Hopper: what it takes. Its kernels are indexer_projection_cuda_*.cu, which not every build has.

#include "fulgurite/ops/indexer_projection/indexer_projection_rules.h"

namespace fulgurite::indexer_projection {
namespace {

Support takes_shape(const Problem& problem) {
  if (problem.head_dim != 128 || problem.heads > 64 || problem.hidden % 16 != 0)
    return Refusal{fmt::format("key of {}, {} heads, hidden {}, takes 128, at most 64, a multiple of 16",
                               problem.head_dim, problem.heads, problem.hidden)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  return first_refusal({takes_sm(problem.setting.target, 90), one_pass(problem), takes_shape(problem)});
}

// Both weights in bf16 (a copy where they are stored otherwise), K in 16 parts.
Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  stated.order = {16, 0, SumOrder::Merge::kPairwise};
  stated.wk = stated.gate_weight = MatrixFormat{MatrixForm::kBF16, {}};
  return stated;
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper",
                                 supports,
                                 no_workspace<Problem>,
                                 FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda,
                                 nullptr,
                                 states,
                                 "products by wgmma and mma.sync of bf16; K in 16 parts, added pairwise"};

}  // namespace fulgurite::indexer_projection
