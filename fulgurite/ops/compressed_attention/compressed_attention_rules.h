#pragma once
// Between the row of Hopper (compressed_attention_rules.cpp) and its kernels.

#include "fulgurite/ops/compressed_attention/compressed_attention.h"

namespace fulgurite::compressed_attention {

// How a call of so many tokens is launched: runs that a token's keys are dealt to, and heads of a block. One way for each power
// of two of tokens, so that a pass and the same one padded have the same bits.
struct HopperPlan {
  int32_t splits = 1;
  int32_t block_heads = 64;
};
HopperPlan hopper_plan(const Problem& problem, int64_t tokens);
int64_t hopper_workspace_bytes(int64_t tokens, int64_t heads, int64_t splits);

void run_hopper(const Problem& problem, const Args& args,
                const Lane& lane);  // compressed_attention_cuda_row.cu
// The same, launched as said.
void run_hopper(const Problem& problem, const Args& args, const Lane& lane, const HopperPlan& plan);

}  // namespace fulgurite::compressed_attention
