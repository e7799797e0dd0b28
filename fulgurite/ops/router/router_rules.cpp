// The row of Hopper: what it takes. Its kernels are router_cuda_*.cu, which not every build has.

#include "fulgurite/ops/router/router_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::router {
namespace {

Support takes_sizes(const Problem& problem) {
  if (problem.hidden % 8 != 0 || problem.hidden == 0)
    return Refusal{fmt::format("hidden = {}, takes multiples of 8", problem.hidden)};
  if (problem.experts > kMostExperts || problem.groups > kMostGroups ||
      problem.experts_per_token > kMostChosen)
    return Refusal{fmt::format("{} of {} experts in {} groups, takes {} of {} in {}",
                               problem.experts_per_token, problem.experts, problem.groups, kMostChosen,
                               kMostExperts, kMostGroups)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  return first_refusal(
      {takes_sizes(problem), takes_hopper_setting(problem.setting), kReference.supports(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) {
  return kParts * kChunkTokens * problem.experts * static_cast<int64_t>(sizeof(double));
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::router
