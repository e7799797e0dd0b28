#pragma once
// Between the row of Hopper (norm_rules.cpp) and its kernels.

#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {

inline constexpr int kWidest = 8192;  // a block of 1024 threads

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // norm_cuda_fast.cu

}  // namespace fulgurite::norm
