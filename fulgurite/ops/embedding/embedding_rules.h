#pragma once
// Between the row of Hopper (embedding_rules.cpp) and its kernels.

#include "fulgurite/ops/embedding/embedding.h"

namespace fulgurite::embedding {

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // embedding_cuda_fast.cu

}  // namespace fulgurite::embedding
