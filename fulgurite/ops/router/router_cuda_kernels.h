#pragma once
// The router's two kernels. Logits: double sums by matrix instructions, K dealt to kParts warps whose sums
// meet in `parts`; the choice adds them, ascending, and rounds once.

#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/router/router_rules.h"

namespace fulgurite::router {

// parts [kParts, tokens, experts]
void launch_logits(const Args& args, double* parts, const Lane& lane);
void launch_choice(const Problem& problem, const Args& args, const double* parts, const Lane& lane);

}  // namespace fulgurite::router
