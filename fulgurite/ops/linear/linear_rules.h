#pragma once
// Between the rows of Hopper (linear_rules.cpp) and their kernels.

#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {

void run_bf16(const Problem& problem, const Args& args, const Lane& lane);    // linear_cuda_bf16.cu
void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // linear_cuda_fast.cu

// linear_cuda_cublaslt.cu. False: the library has no algorithm for it.
bool choose_cublaslt(const Problem& problem);
void run_cublaslt(const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::linear
