#pragma once
// Between the row of Hopper (linear_rules.cpp) and its kernels.

#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {

void run_bf16(const Problem& problem, const Args& args, const Lane& lane);    // linear_cuda_bf16.cu
void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // linear_cuda_fast.cu

}  // namespace fulgurite::linear
