#pragma once
// Between the row of Hopper (sparse_attention_rules.cpp) and its kernels.

#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {

// How a call of so many tokens is launched: runs that a list is dealt to, and heads of a block. One way for each power of two
// of tokens, so that a pass and the same one padded have the same bits.
struct HopperPlan {
  int32_t splits = 1;
  int32_t block_heads = 64;
};
HopperPlan hopper_plan(LatentCache form, int64_t tokens, int64_t heads, int64_t topk);
int64_t hopper_workspace_bytes(int64_t tokens, int64_t heads, int64_t splits);

void run_hopper(const Problem& problem, const Args& args, const Lane& lane);  // sparse_attention_cuda_row.cu

}  // namespace fulgurite::sparse_attention
