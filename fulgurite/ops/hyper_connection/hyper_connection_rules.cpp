// The row of Hopper: what it takes. Its kernels are hyper_connection_cuda_*.cu, which not every build has.

#include "fulgurite/ops/hyper_connection/hyper_connection_rules.h"

#include <algorithm>

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::hyper_connection {
namespace {

Support supports(const Problem& problem) {
  if (problem.hidden % 8 != 0 || problem.hidden == 0)
    return Refusal{fmt::format("hidden = {}, takes multiples of 8", problem.hidden)};
  return first_refusal({takes_hopper_setting(problem.setting), kReference.supports(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) {
  return tokens_at_once(problem) * slices_of(problem) * kSums * static_cast<int64_t>(sizeof(double));
}

}  // namespace

int64_t tokens_at_once(const Problem& problem) { return std::clamp<int64_t>(problem.largest_batch, 1, 512); }

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::hyper_connection
