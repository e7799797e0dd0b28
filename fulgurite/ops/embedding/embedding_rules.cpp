// The row of Hopper: what it takes. Its kernels are embedding_cuda_*.cu, which not every build has.

#include "fulgurite/ops/embedding/embedding_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::embedding {
namespace {

Support supports(const Problem& problem) {
  if (problem.hidden % 8 != 0)
    return Refusal{fmt::format("hidden = {}, takes multiples of 8", problem.hidden)};
  return first_refusal({takes_hopper_setting(problem.setting), kReference.supports(problem)});
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::embedding
