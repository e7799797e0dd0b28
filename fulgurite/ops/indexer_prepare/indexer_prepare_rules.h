#pragma once
// Between the row of Hopper (indexer_prepare_rules.cpp) and its kernels.

#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);    // indexer_prepare_cuda_row.cu
void show_rotated(const Problem& problem, const Args& args, const Lane& lane);  // indexer_prepare_cuda.cu

}  // namespace fulgurite::indexer_prepare
