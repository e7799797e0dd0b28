// The row of Hopper: what it takes. Its kernels are query_prepare_cuda_*.cu, which not every build has.

#include "fulgurite/ops/query_prepare/query_prepare_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::query_prepare {
namespace {

Support supports(const Problem& problem) {
  if (problem.head_dim != kDim || problem.rope != kRope)
    return Refusal{fmt::format("heads of {}, {} of them rotated, takes {} and {}", problem.head_dim,
                               problem.rope, kDim, kRope)};
  return first_refusal({takes_hopper_setting(problem.setting), kReference.supports(problem)});
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::query_prepare
