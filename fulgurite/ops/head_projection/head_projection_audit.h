#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::head_projection
