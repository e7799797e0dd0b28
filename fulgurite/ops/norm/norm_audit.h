#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include <span>
#include <vector>

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {

// Every r that a row may have whose squares are summed in double, in any order: the sum of n terms of one
// sign is within n * 2^-53 of itself on either side, the quotient adds a rounding each, and the rounding of
// the mean to fp32 leaves one value or two neighbours.
std::vector<float> possible_roots(const Problem& problem, std::span<const float> s);

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::norm
