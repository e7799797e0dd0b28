#pragma once
// Between the row of Hopper (index_select_rules.cpp) and its kernels.

#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {

// Of a row of logits in the workspace: it begins a line of L2.
inline int64_t row_bytes(int64_t context) { return (context + 31) / 32 * 128; }
int64_t workspace_bytes_hopper(const Problem& problem);
void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // index_select_cuda_fast.cu

}  // namespace fulgurite::index_select
