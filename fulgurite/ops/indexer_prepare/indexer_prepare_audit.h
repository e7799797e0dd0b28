#pragma once
// Is a row of indexer_prepare right? It must make the reference's roundings: every output value by value.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {

// Runs `row` on args (its outputs are args' own) and compares q_operand, weights, the tokens' rows of the
// key cache with their scales, and the rotated tensors where args has them. Codes are compared as the
// values they stand for.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::indexer_prepare
