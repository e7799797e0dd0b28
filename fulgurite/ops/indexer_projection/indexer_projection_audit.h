#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::indexer_projection
