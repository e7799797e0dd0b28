#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::largest_logits {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::largest_logits
