// Source: model.safetensors.index.json of deepseek-ai/DeepSeek-V3.2-Exp.

#include "fulgurite/model/weight_names.h"

#include <fmt/format.h>

#include <array>

#include "fulgurite/model/weight_names_v4.h"

namespace fulgurite::model {
namespace {

class Table {
 public:
  explicit Table(const Config& config) : config_(config) {}

  std::vector<TensorName> all() {
    add(Role::kEmbedding, Form::kPlain, "model.embed_tokens.weight", config_.vocabulary, config_.hidden);
    for (layer_ = 0; layer_ < config_.layers; ++layer_) add_layer();
    layer_ = kNoLayer;
    add(Role::kFinalNorm, Form::kVector, "model.norm.weight", 1, config_.hidden);
    add(Role::kHead, Form::kPlain, "lm_head.weight", config_.vocabulary, config_.hidden);
    const size_t read = names_.size();
    for (layer_ = config_.layers; layer_ < config_.layers + config_.mtp_layers; ++layer_) add_mtp_layer();
    leave_out(read, Role::kMtp);
    return std::move(names_);
  }

 private:
  void add(Role role, Form form, std::string name, int64_t rows, int64_t columns,
           int64_t expert = kNotRouted) {
    const DType plain = form == Form::kVector ? DType::kF32 : DType::kBF16;
    names_.push_back({std::move(name), role, form, layer_, expert, rows, columns, true, role, plain});
  }
  void in_layer(Role role, Form form, std::string_view suffix, int64_t rows, int64_t columns,
                int64_t expert = kNotRouted) {
    add(role, form, fmt::format("model.layers.{}.{}.weight", layer_, suffix), rows, columns, expert);
  }

  void add_layer() {
    add_attention();
    in_layer(Role::kFeedForwardNorm, Form::kVector, "post_attention_layernorm", 1, config_.hidden);
    if (layer_ < config_.layers && config_.dense(layer_))
      return add_mlp("mlp", config_.dense_width, kNotRouted);
    in_layer(Role::kRouter, Form::kPlain, "mlp.gate", config_.experts, config_.hidden);
    add(Role::kRouterBias, Form::kVector,
        fmt::format("model.layers.{}.mlp.gate.e_score_correction_bias", layer_), 1, config_.experts);
    for (int64_t e = 0; e < config_.experts; ++e)
      add_mlp(fmt::format("mlp.experts.{}", e), config_.expert_width, e);
    add_mlp("mlp.shared_experts", config_.shared_experts * config_.expert_width, kNotRouted);
  }

  void add_attention() {
    const Config& c = config_;
    in_layer(Role::kAttentionNorm, Form::kVector, "input_layernorm", 1, c.hidden);
    in_layer(Role::kQA, Form::kLinear, "self_attn.q_a_proj", c.q_lora, c.hidden);
    in_layer(Role::kQANorm, Form::kVector, "self_attn.q_a_layernorm", 1, c.q_lora);
    in_layer(Role::kQB, Form::kLinear, "self_attn.q_b_proj", c.heads * (c.nope + c.rope), c.q_lora);
    in_layer(Role::kKvA, Form::kLinear, "self_attn.kv_a_proj_with_mqa", c.kv_lora + c.rope, c.hidden);
    in_layer(Role::kKvANorm, Form::kVector, "self_attn.kv_a_layernorm", 1, c.kv_lora);
    in_layer(Role::kKvB, Form::kLinear, "self_attn.kv_b_proj", c.heads * (c.nope + c.value), c.kv_lora);
    in_layer(Role::kO, Form::kLinear, "self_attn.o_proj", c.hidden, c.heads * c.value);
    const size_t indexer = names_.size();
    in_layer(Role::kIndexQ, Form::kLinear, "self_attn.indexer.wq_b", c.index_heads * c.index_dim, c.q_lora);
    in_layer(Role::kIndexK, Form::kLinear, "self_attn.indexer.wk", c.index_dim, c.hidden);
    in_layer(Role::kIndexKNormWeight, Form::kVector, "self_attn.indexer.k_norm", 1, c.index_dim);
    add(Role::kIndexKNormBias, Form::kVector,
        fmt::format("model.layers.{}.self_attn.indexer.k_norm.bias", layer_), 1, c.index_dim);
    in_layer(Role::kIndexGate, Form::kGate, "self_attn.indexer.weights_proj", c.index_heads, c.hidden);
    if (!c.has_indexer(layer_)) leave_out(indexer, Role::kSharedIndexer);
  }

  void add_mlp(std::string_view prefix, int64_t width, int64_t expert) {
    in_layer(Role::kMlpGate, Form::kLinear, fmt::format("{}.gate_proj", prefix), width, config_.hidden,
             expert);
    in_layer(Role::kMlpUp, Form::kLinear, fmt::format("{}.up_proj", prefix), width, config_.hidden, expert);
    in_layer(Role::kMlpDown, Form::kLinear, fmt::format("{}.down_proj", prefix), config_.hidden, width,
             expert);
  }

  void add_mtp_layer() {
    add_layer();
    for (const char* const suffix :
         {"eh_proj", "enorm", "hnorm", "shared_head.norm", "shared_head.head", "embed_tokens"})
      in_layer(Role::kMtp, Form::kAny, suffix, 0, 0);
  }

  // All names from `first` on; scales of a linear go with it.
  void leave_out(size_t first, Role role) {
    for (size_t i = first; i < names_.size(); ++i) {
      names_[i].role = role;
      names_[i].required = false;
    }
  }

  const Config& config_;
  int64_t layer_ = kNoLayer;
  std::vector<TensorName> names_;
};

}  // namespace

std::string_view name(Role role) {
  static constexpr auto kNames = std::to_array<std::string_view>({"embedding",
                                                                  "final norm",
                                                                  "head",
                                                                  "attention norm",
                                                                  "feed-forward norm",
                                                                  "q_a",
                                                                  "q_a norm",
                                                                  "q_b",
                                                                  "kv_a",
                                                                  "kv_a norm",
                                                                  "kv_b",
                                                                  "o",
                                                                  "index q",
                                                                  "index k",
                                                                  "index k norm",
                                                                  "index k norm bias",
                                                                  "index gate",
                                                                  "index k and gate",
                                                                  "kv",
                                                                  "kv norm",
                                                                  "sink",
                                                                  "o_a",
                                                                  "o_b",
                                                                  "compressor kv",
                                                                  "compressor gate",
                                                                  "compressor ape",
                                                                  "compressor norm",
                                                                  "index compressor kv",
                                                                  "index compressor gate",
                                                                  "index compressor ape",
                                                                  "index compressor norm",
                                                                  "attention streams",
                                                                  "attention streams base",
                                                                  "attention streams scale",
                                                                  "feed-forward streams",
                                                                  "feed-forward streams base",
                                                                  "feed-forward streams scale",
                                                                  "head streams",
                                                                  "head streams base",
                                                                  "head streams scale",
                                                                  "router",
                                                                  "router bias",
                                                                  "expert table",
                                                                  "mlp gate",
                                                                  "mlp up",
                                                                  "mlp down",
                                                                  "experts' gate and up",
                                                                  "experts' down",
                                                                  "indexer of a shared layer, left out",
                                                                  "mtp, left out"});
  static_assert(kNames.size() == static_cast<size_t>(Role::kMtp) + 1);
  return kNames[static_cast<size_t>(role)];
}

std::vector<TensorName> tensor_names(const Config& config, Spelling spelling) {
  return config.window ? tensor_names_v4(config, spelling) : Table(config).all();
}

TensorName fused_indexer(const Config& config, int64_t layer) {
  return {fmt::format("model.layers.{}.self_attn.indexer.wk_weights_proj.weight", layer),
          Role::kIndexFused,
          Form::kGate,
          layer,
          kNotRouted,
          config.index_dim + config.index_heads,
          config.hidden,
          true,
          Role::kIndexFused,
          DType::kBF16};
}

std::string scale_name(const TensorName& weight, ScaleFormat format) {
  const PartNames names = part_names(weight);
  return format == ScaleFormat::kF32 ? names.scales.front() : names.scales.back();
}

PartNames part_names(const TensorName& weight) {
  // Every name of the table that can have parts ends in this; biases have none.
  constexpr std::string_view kWeight = ".weight";
  if (!weight.name.ends_with(kWeight)) return {};
  const std::string module = weight.name.substr(0, weight.name.size() - kWeight.size());
  return {{module + ".weight_scale_inv", module + ".weight_scale", module + ".scale"},
          module + ".weight_scale_2",
          module + ".input_scale"};
}

}  // namespace fulgurite::model
