#pragma once
// Between the row of Hopper (kv_prepare_rules.cpp) and its kernels.

#include "fulgurite/ops/kv_prepare/kv_prepare.h"

namespace fulgurite::kv_prepare {

inline constexpr int kDim = 512, kRope = 64;  // of a row

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // kv_prepare_cuda_fast.cu

}  // namespace fulgurite::kv_prepare
