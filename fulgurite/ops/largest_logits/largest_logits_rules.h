#pragma once
// Between the row of Hopper (largest_logits_rules.cpp) and its kernel.

#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::largest_logits {

inline constexpr int64_t kMostVocabulary = 8 * 48 * 1024;  // eight blocks' shared memory

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // largest_logits_cuda_fast.cu

}  // namespace fulgurite::largest_logits
