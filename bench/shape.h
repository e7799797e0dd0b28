#pragma once
// The dimensions that a benchmark runs at: those of a published model.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/core/matrix.h"
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
  int64_t o_groups = 0, o_lora = 0;  // the same
  bool hash_layers = false;          // the same: layers whose experts the token's id chooses
  bool fp4_experts = false;          // routed experts of MXFP4
  std::optional<float> swiglu_limit{};
  ScaleFormat weight_scale = ScaleFormat::kF32;  // of fp8 blocks
  IndexQuant index_quant = IndexQuant::kFp8;     // index_quant = family
};

// A weight of fp8 blocks, as the shape's checkpoint stores it.
inline MatrixFormat fp8_matrix(const Shape& shape) {
  return {MatrixForm::kE4M3Blocks, {128, 128}, shape.weight_scale};
}
// That of a routed expert.
inline MatrixFormat expert_matrix(const Shape& shape) {
  if (!shape.fp4_experts) return fp8_matrix(shape);
  return {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0};
}

std::vector<std::string> shape_names();
const Shape& shape_named(const std::string& name);  // throws Error{kRequest}

}  // namespace fulgurite::bench
