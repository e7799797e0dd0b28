// The row of Hopper: what it takes. Its kernel is largest_logits_cuda_fast.cu, which not every build has.

#include "fulgurite/ops/largest_logits/largest_logits_rules.h"

namespace fulgurite::largest_logits {
namespace {

Support supports(const Problem& problem) {
  if (problem.vocabulary > kMostVocabulary)
    return Refusal{fmt::format("vocabulary = {}, takes at most {}", problem.vocabulary, kMostVocabulary)};
  return takes_sm(problem.setting.target, 90);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::largest_logits
