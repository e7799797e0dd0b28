// The row of Hopper: what it takes. Its kernels are norm_cuda_*.cu, which not every build has.

#include "fulgurite/ops/norm/norm_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::norm {
namespace {

Support supports(const Problem& problem) {
  if (problem.width % 8 != 0 || problem.width > kWidest || problem.width == 0)
    return Refusal{fmt::format("width = {}, takes multiples of 8 up to {}", problem.width, kWidest)};
  return takes_hopper_setting(problem.setting);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::norm
