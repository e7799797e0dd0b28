#pragma once
// Runs an implementation, once, and judges each step by what the step before it gave: u and g against the
// reference's, the averages by u and g as they stand in the state, the rows by the averages. So nothing has to
// be said of how an error in one step tips a rounding in a later one.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::compressor
