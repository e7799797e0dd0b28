#pragma once
// How far an implementation of compressed_attention is from the reference on given inputs, and how far it may
// be.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"

namespace fulgurite::compressed_attention {

// Runs `row` on args and compares args.out with the reference's, within a bound derived from the arithmetic.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::compressed_attention
