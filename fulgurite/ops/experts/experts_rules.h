#pragma once
// Between the row of Hopper (experts_rules.cpp) and its kernels.

#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // experts_cuda_fast.cu

}  // namespace fulgurite::experts
