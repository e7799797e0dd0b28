#pragma once
// Between the row of Hopper (router_rules.cpp) and its kernels.

#include "fulgurite/ops/router/router.h"

namespace fulgurite::router {

inline constexpr int kParts = 8;           // of K: blocks that share the sums of 16 experts
inline constexpr int kMostExperts = 1024;  // a thread each
inline constexpr int kMostGroups = 64, kMostChosen = 32;
inline constexpr int64_t kChunkTokens = 512;  // that are scored at once

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // router_cuda_fast.cu

}  // namespace fulgurite::router
