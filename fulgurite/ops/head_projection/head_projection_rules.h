#pragma once
// Between the row of Hopper (head_projection_rules.cpp) and its kernels.

#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {

// Whether the weight stays in its codes, of which bf16 is made as they come (cuda/coded_product.h).
bool meets_codes(const Problem& problem);

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // head_projection_cuda_fast.cu

}  // namespace fulgurite::head_projection
