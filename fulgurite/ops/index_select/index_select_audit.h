#pragma once
// Is a row of index_select right? Its scores lie within the contract's bound of the reference's; its
// choice is exactly the best topk of its own scores; and it leaves the reference's choice only where the
// bounds of the scores leave the order open.

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {

// Runs `row` on args (its outputs are args' own), and a second time for its scores where args does not ask
// for them. Reports "scores", "selected" (element by element against the choice that the row's scores
// make) and "choice" (a token each: 1 where the row chose a key that is surely worse than one it left).
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::index_select
