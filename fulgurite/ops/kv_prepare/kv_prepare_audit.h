#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"

namespace fulgurite::kv_prepare {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::kv_prepare
