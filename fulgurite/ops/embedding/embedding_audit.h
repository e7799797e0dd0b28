#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::embedding
