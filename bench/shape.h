#pragma once
// The dimensions that a benchmark runs at: those of a published model.

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/core/numerics.h"
#include "fulgurite/ops/rotary/rotary.h"
#include "fulgurite/ops/rotary/rotary_table.h"

namespace fulgurite::bench {

struct Shape {
  std::string name;
  int64_t vocabulary, hidden;
  int64_t heads, q_lora, kv_lora, nope, rope, value;
  int64_t index_heads, index_dim, index_topk;
  int64_t dense_width, experts, experts_per_token, expert_groups, groups_kept, expert_width;
  float routed_scale, softmax_scale, norm_eps;
  rotary::Layout index_rope;
  rotary::Frequencies frequencies;
  ActivationScale activation_scale;      // what `checkpoint` means here
  std::vector<int64_t> index_contexts;   // of index_select
  int64_t attention_context;             // that the chosen rows are strewn over
  std::vector<int64_t> attention_heads;  // all, and those of one of eight parts
  int64_t kv = 0;           // of DeepSeek-V4, whose caches have rows of it; 0: the latent attention of V3.2
  int64_t index_ratio = 1;  // tokens that an index key stands for
  int64_t streams = 0;      // of DeepSeek-V4
  int64_t window = 0;       // the same
  IndexQuant index_quant = IndexQuant::kFp8;  // index_quant = family
};

std::vector<std::string> shape_names();
const Shape& shape_named(const std::string& name);  // throws Error{kRequest}

}  // namespace fulgurite::bench
