#pragma once
// Between the row of Hopper (indexer_projection_rules.cpp) and its kernels.

#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {

void run_hopper(const Problem& problem, const Args& args,
                const Lane& lane);  // indexer_projection_cuda_row.cu

}  // namespace fulgurite::indexer_projection
