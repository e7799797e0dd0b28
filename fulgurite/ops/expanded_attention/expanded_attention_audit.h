#pragma once
// How far an implementation of expanded_attention is from the reference on given inputs, and how far it may
// be.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"

namespace fulgurite::expanded_attention {

// Runs `row` on args and compares args.out with the reference's, within a bound derived from the arithmetic.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::expanded_attention
