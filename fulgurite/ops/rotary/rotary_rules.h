#pragma once
// Between the row of Hopper (rotary_rules.cpp) and its kernels.

#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // rotary_cuda_fast.cu

}  // namespace fulgurite::rotary
