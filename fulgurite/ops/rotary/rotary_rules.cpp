// The row of Hopper: what it takes. Its kernels are rotary_cuda_*.cu, which not every build has.

#include "fulgurite/ops/rotary/rotary_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) {
  if (problem.dim % 8 != 0) return Refusal{fmt::format("dim = {}, takes multiples of 8", problem.dim)};
  return takes_hopper_setting(problem.setting);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::rotary
