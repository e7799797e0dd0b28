#pragma once
// Is a router's row right? Its choice and weights against the reference's, as far as the error of the logits
// leaves no doubt.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {

// Runs `row` on args (its outputs are args' own) and compares expert_ids and expert_weights. An id is free
// (its bound is the number of experts) only where the logits' error leaves the expert's rank in doubt, else
// bound 0.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::router
