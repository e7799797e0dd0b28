#pragma once
// Between the row of Hopper (query_prepare_rules.cpp) and its kernels.

#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::query_prepare {

inline constexpr int kDim = 512, kRope = 64;  // of a head

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // query_prepare_cuda_fast.cu

}  // namespace fulgurite::query_prepare
