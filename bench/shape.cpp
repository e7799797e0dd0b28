#include "bench/shape.h"

#include <fmt/ranges.h>

#include "fulgurite/core/error.h"

namespace fulgurite::bench {
namespace {

// DeepSeek-V3.2's config.json. The softmax scale carries YaRN's mscale.
Shape v32_671b() {
  Shape s{};
  s.name = "v32-671b";
  s.vocabulary = 129280, s.hidden = 7168;
  s.heads = 128, s.q_lora = 1536, s.kv_lora = 512, s.nope = 128, s.rope = 64, s.value = 128;
  s.index_heads = 64, s.index_dim = 128, s.index_topk = 2048;
  s.dense_width = 18432, s.experts = 256, s.experts_per_token = 8, s.expert_groups = 8, s.groups_kept = 4;
  s.expert_width = 2048;
  s.routed_scale = 2.5f, s.softmax_scale = 0.13523378f, s.norm_eps = 1e-6f;
  s.index_rope = rotary::Layout::kHalfSplit;
  s.frequencies = {10000.0, 64, rotary::Yarn{40.0, 4096.0, 32.0, 1.0}};
  s.activation_scale = ActivationScale::kPow2;
  s.index_contexts = {4096, 32768, 131072, 1048576};
  s.attention_context = 131072;
  s.attention_heads = {128, 16};
  return s;
}

// GLM-5's config.json.
Shape glm5() {
  Shape s = v32_671b();
  s.name = "glm5";
  s.vocabulary = 154880, s.hidden = 6144;
  s.heads = 64, s.q_lora = 2048, s.nope = 192, s.value = 256;
  s.index_heads = 32;
  s.dense_width = 12288, s.expert_groups = 1, s.groups_kept = 1;
  s.softmax_scale = 0.0625f, s.norm_eps = 1e-5f;
  s.index_rope = rotary::Layout::kInterleaved;
  s.frequencies = {1e6, 64, {}};
  s.activation_scale = ActivationScale::kFp32;  // no scale_fmt
  s.attention_heads = {64, 8};
  return s;
}

// DeepSeek-V4-Flash's config.json.
Shape v4_flash() {
  Shape s = v32_671b();
  s.name = "v4-flash";
  s.hidden = 4096;
  s.heads = 64, s.q_lora = 1024, s.kv = 512;
  s.nope = 448, s.rope = 64, s.streams = 4, s.window = 128;
  s.index_quant = IndexQuant::kFp4;
  s.norm_eps = 1e-6f;
  s.index_topk = 512, s.index_ratio = 4;
  s.index_rope = rotary::Layout::kInterleaved;
  s.frequencies = {160000.0, 64, rotary::Yarn{16.0, 65536.0, 32.0, 1.0}};
  s.index_contexts = {4096, 32768, 262144};
  s.softmax_scale = 0.04419417f;  // 512^-1/2, no mscale
  s.o_groups = 8, s.o_lora = 1024;
  s.experts = 256, s.experts_per_token = 6, s.expert_groups = 1, s.groups_kept = 1;
  s.expert_width = 2048, s.routed_scale = 1.5f;
  s.hash_layers = true, s.fp4_experts = true;
  s.swiglu_limit = 10.0f;
  s.weight_scale = ScaleFormat::kE8M0;
  s.attention_heads = {64};
  return s;
}

// DeepSeek-V4-Pro's.
Shape v4_pro() {
  Shape s = v4_flash();
  s.name = "v4-pro";
  s.hidden = 7168;
  s.heads = 128, s.q_lora = 1536;
  s.index_topk = 1024;
  s.o_groups = 16;
  s.experts = 384, s.expert_width = 3072, s.routed_scale = 2.5f;
  s.attention_heads = {128};
  return s;
}

// models/tiny-v32/config.json.
Shape tiny_v32() {
  Shape s = v32_671b();
  s.name = "tiny-v32";
  s.vocabulary = 2048, s.hidden = 384;
  s.heads = 8, s.q_lora = 256, s.nope = 64, s.value = 64;
  s.index_heads = 8, s.index_topk = 128;
  s.dense_width = 1024, s.experts = 8, s.experts_per_token = 2, s.expert_groups = 4, s.groups_kept = 2;
  s.expert_width = 128;
  s.routed_scale = 1.5f, s.softmax_scale = 0.114652f;
  s.frequencies = {10000.0, 64, rotary::Yarn{4.0, 512.0, 32.0, 1.0}};
  s.index_contexts = {512, 2048};
  s.attention_context = 2048;
  s.attention_heads = {8};
  return s;
}

// models/tiny-v4/config.json.
Shape tiny_v4() {
  Shape s = v4_flash();
  s.name = "tiny-v4";
  s.vocabulary = 2048, s.hidden = 256;
  s.heads = 8, s.q_lora = 128;
  s.index_heads = 8, s.index_topk = 32;
  s.o_groups = 2, s.o_lora = 128;
  s.experts = 8, s.experts_per_token = 2, s.expert_width = 128;
  s.frequencies = {160000.0, 64, rotary::Yarn{16.0, 256.0, 32.0, 1.0}};
  s.index_contexts = {512};
  s.attention_context = 2048;
  s.attention_heads = {8};
  return s;
}

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> kShapes{v32_671b(), glm5(), v4_flash(), v4_pro(), tiny_v32(), tiny_v4()};
  return kShapes;
}

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const Shape& shape : shapes()) names.push_back(shape.name);
  return names;
}

const Shape& shape_named(const std::string& name) {
  for (const Shape& shape : shapes())
    if (shape.name == name) return shape;
  fail(ErrorKind::kRequest, "shape: expected {}, found \"{}\"", fmt::join(shape_names(), " or "),
       printable(name, 80));
}

}  // namespace fulgurite::bench
