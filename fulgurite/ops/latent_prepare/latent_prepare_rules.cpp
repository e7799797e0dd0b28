// The row of Hopper: what it takes. Its kernels are latent_prepare_cuda_*.cu, which not every build has.

#include "fulgurite/ops/latent_prepare/latent_prepare_rules.h"

#include "fulgurite/core/hopper_setting.h"

namespace fulgurite::latent_prepare {
namespace {

Support supports(const Problem& problem) {
  if (problem.latent != kLatent || problem.rope != kRope)
    return Refusal{
        fmt::format("rows of {} + {}, takes {} + {}", problem.latent, problem.rope, kLatent, kRope)};
  if (problem.page_tokens != 0 && problem.page_tokens != kPageTokens)
    return Refusal{fmt::format("pages of {} tokens, takes {}", problem.page_tokens, kPageTokens)};
  return first_refusal({takes_hopper_setting(problem.setting), kReference.supports(problem)});
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::latent_prepare
