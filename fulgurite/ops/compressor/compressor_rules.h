#pragma once
// Between the row of Hopper (compressor_rules.cpp) and its kernels.

#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {

int64_t tokens_at_once(const Problem& problem);  // whose u and products lie in the workspace
void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // compressor_cuda_row.cu

}  // namespace fulgurite::compressor
