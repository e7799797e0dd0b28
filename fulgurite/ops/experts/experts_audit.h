#pragma once
// Is a row of the experts right? The reference's output, and what the arithmetic allows around it.

#include "fulgurite/audit/report.h"
#include "fulgurite/core/interval.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {

// Where every implementation's output must lie, [tokens][hidden]. An interval that is not finite says
// nothing: a NaN or infinity in x, or sums that may overflow.
std::vector<Interval> output_intervals(const Problem& problem, const Args& args);

// Runs `row` on args (its output is args' own) and compares out; the bound is the interval's further end. Of
// a token with a NaN or infinity in x, NaN and infinities alone are compared; what may overflow is not
// judged.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::experts
