// Source: model.safetensors.index.json of deepseek-ai/DeepSeek-V4-Flash (of July for the draft stages); what
// Hugging Face transformers 5.17 writes and how its modules are named.

#include "fulgurite/model/weight_names_v4.h"

#include <fmt/format.h>

#include <charconv>
#include <utility>

namespace fulgurite::model {
namespace {

// One tensor's name within a layer, or of the model, in each spelling.
struct Spelled {
  std::string_view official, saved, modules;

  Spelled(std::string_view files, std::string_view in_modules)
      : official(files), saved(files), modules(in_modules) {}
  Spelled(std::string_view files, std::string_view as_saved, std::string_view in_modules)
      : official(files), saved(as_saved), modules(in_modules) {}

  std::string_view in(Spelling spelling) const {
    if (spelling == Spelling::kModules) return modules;
    return spelling == Spelling::kSaved ? saved : official;
  }
};

class Table {
 public:
  Table(const Config& config, Spelling spelling)
      : config_(config), window_(*config.window), streams_(*config.streams), spelling_(spelling) {}

  std::vector<TensorName> all() {
    const int64_t hidden = config_.hidden;
    matrix(Role::kEmbedding, {"embed.weight", "model.embed_tokens.weight", "model.embed_tokens.weight"},
           config_.vocabulary, hidden);
    for (layer_ = 0; layer_ < config_.layers; ++layer_) {
      prefix_ = fmt::format("{}layers.{}.", spelling_ == Spelling::kOfficial ? "" : "model.", layer_);
      add_layer();
    }
    layer_ = kNoLayer;
    prefix_ = "";
    add_head_streams({"hc_head_fn", "model.hc_head.hc_fn", "model.hc_head.hc_fn"},
                     {"hc_head_base", "model.hc_head.hc_base", "model.hc_head.hc_base"},
                     {"hc_head_scale", "model.hc_head.hc_scale", "model.hc_head.hc_scale"});
    vector(Role::kFinalNorm, {"norm.weight", "model.norm.weight", "model.norm.weight"}, hidden);
    matrix(Role::kHead, {"head.weight", "head.weight", "lm_head.weight"}, config_.vocabulary, hidden);
    add_mtp();
    return std::move(names_);
  }

 private:
  // --- one tensor ---

  void add(Role role, Form form, const Spelled& name, int64_t rows, int64_t columns, DType plain,
           int64_t expert = kNotRouted) {
    names_.push_back({prefix_ + std::string(name.in(spelling_)), role, form, layer_, expert, rows, columns,
                      true, role, plain});
  }
  void linear(Role role, const Spelled& name, int64_t rows, int64_t columns, int64_t expert = kNotRouted) {
    add(role, Form::kLinear, name, rows, columns, DType::kBF16, expert);
  }
  void matrix(Role role, const Spelled& name, int64_t rows, int64_t columns, DType plain = DType::kBF16) {
    add(role, Form::kPlain, name, rows, columns, plain);
  }
  void vector(Role role, const Spelled& name, int64_t extent, DType plain = DType::kBF16) {
    add(role, Form::kVector, name, 1, extent, plain);
  }

  // --- a layer ---

  void add_layer() {
    add_streams(Role::kAttentionStreamsFn, {"hc_attn_fn", "attn_hc.fn"}, {"hc_attn_base", "attn_hc.base"},
                {"hc_attn_scale", "attn_hc.scale"});
    vector(Role::kAttentionNorm, {"attn_norm.weight", "input_layernorm.weight"}, config_.hidden);
    add_attention();
    if (const int64_t ratio = config_.ratio(layer_); ratio != 0) add_compressor(ratio);
    if (config_.has_indexer(layer_)) add_indexer();
    add_streams(Role::kFeedForwardStreamsFn, {"hc_ffn_fn", "ffn_hc.fn"}, {"hc_ffn_base", "ffn_hc.base"},
                {"hc_ffn_scale", "ffn_hc.scale"});
    vector(Role::kFeedForwardNorm, {"ffn_norm.weight", "post_attention_layernorm.weight"}, config_.hidden);
    add_feed_forward();
  }

  void add_attention() {
    const int64_t dim = window_.head_dim, hidden = config_.hidden, inner = window_.o_groups * window_.o_lora;
    linear(Role::kQA, {"attn.wq_a.weight", "self_attn.q_a_proj.weight"}, config_.q_lora, hidden);
    vector(Role::kQANorm, {"attn.q_norm.weight", "self_attn.q_a_norm.weight"}, config_.q_lora);
    linear(Role::kQB, {"attn.wq_b.weight", "self_attn.q_b_proj.weight"}, config_.heads * dim, config_.q_lora);
    linear(Role::kWindowKv, {"attn.wkv.weight", "self_attn.kv_proj.weight"}, dim, hidden);
    vector(Role::kWindowKvNorm, {"attn.kv_norm.weight", "attn.norm.weight", "self_attn.kv_norm.weight"}, dim);
    vector(Role::kSink, {"attn.attn_sink", "self_attn.sinks"}, config_.heads, DType::kF32);
    linear(Role::kOA, {"attn.wo_a.weight", "self_attn.o_a_proj.weight"}, inner,
           config_.heads * dim / window_.o_groups);
    linear(Role::kOB, {"attn.wo_b.weight", "self_attn.o_b_proj.weight"}, hidden, inner);
  }

  // Of ratio 4 an entry overlaps the one before it: a half for each.
  static int64_t width(int64_t ratio, int64_t dim) { return ratio == 4 ? 2 * dim : dim; }

  void add_compressor(int64_t ratio) {
    const int64_t columns = width(ratio, window_.head_dim), hidden = config_.hidden;
    matrix(Role::kCompressorKv, {"attn.compressor.wkv.weight", "self_attn.compressor.kv_proj.weight"},
           columns, hidden);
    matrix(Role::kCompressorGate, {"attn.compressor.wgate.weight", "self_attn.compressor.gate_proj.weight"},
           columns, hidden);
    matrix(Role::kCompressorApe, {"attn.compressor.ape", "self_attn.compressor.position_bias"}, ratio,
           columns, DType::kF32);
    vector(Role::kCompressorNorm, {"attn.compressor.norm.weight", "self_attn.compressor.kv_norm.weight"},
           window_.head_dim);
  }

  void add_indexer() {
    const int64_t dim = config_.index_dim, columns = width(4, dim), hidden = config_.hidden;
    linear(Role::kIndexQ, {"attn.indexer.wq_b.weight", "self_attn.compressor.indexer.q_b_proj.weight"},
           config_.index_heads * dim, config_.q_lora);
    add(Role::kIndexGate, Form::kGate,
        {"attn.indexer.weights_proj.weight", "self_attn.compressor.indexer.scorer.weights_proj.weight"},
        config_.index_heads, hidden, DType::kBF16);
    matrix(Role::kIndexCompressorKv,
           {"attn.indexer.compressor.wkv.weight", "self_attn.compressor.indexer.kv_proj.weight"}, columns,
           hidden);
    matrix(Role::kIndexCompressorGate,
           {"attn.indexer.compressor.wgate.weight", "self_attn.compressor.indexer.gate_proj.weight"}, columns,
           hidden);
    matrix(Role::kIndexCompressorApe,
           {"attn.indexer.compressor.ape", "self_attn.compressor.indexer.position_bias"}, 4, columns,
           DType::kF32);
    vector(Role::kIndexCompressorNorm,
           {"attn.indexer.compressor.norm.weight", "self_attn.compressor.indexer.kv_norm.weight"}, dim);
  }

  // fn, base and scale are three roles, one after the other.
  void add_mixing(Role fn, const Spelled& name, const Spelled& base, const Spelled& scale, int64_t rows,
                  int64_t scales) {
    const auto next = [fn](int step) { return static_cast<Role>(static_cast<int>(fn) + step); };
    matrix(fn, name, rows, streams_.count * config_.hidden, DType::kF32);
    vector(next(1), base, rows, DType::kF32);
    vector(next(2), scale, scales, DType::kF32);
  }
  void add_streams(Role fn, const Spelled& name, const Spelled& base, const Spelled& scale) {
    add_mixing(fn, name, base, scale, streams_.count * (streams_.count + 2), 3);
  }
  void add_head_streams(const Spelled& name, const Spelled& base, const Spelled& scale) {
    add_mixing(Role::kHeadStreamsFn, name, base, scale, streams_.count, 1);
  }

  void add_feed_forward() {
    const int64_t hidden = config_.hidden, width = config_.expert_width, experts = config_.experts;
    matrix(Role::kRouter, {"ffn.gate.weight", "mlp.gate.weight"}, experts, hidden);
    if (config_.hashed(layer_))
      add(Role::kExpertTable, Form::kTable, {"ffn.gate.tid2eid", "mlp.gate.tid2eid"}, config_.vocabulary,
          config_.experts_per_token, DType::kI64);
    else
      vector(Role::kRouterBias, {"ffn.gate.bias", "mlp.gate.e_score_correction_bias"}, experts, DType::kF32);
    if (spelling_ == Spelling::kModules) {
      add(Role::kExpertsGateUp, Form::kStack, {"", "mlp.experts.gate_up_proj"}, experts * 2 * width, hidden,
          DType::kBF16);
      add(Role::kExpertsDown, Form::kStack, {"", "mlp.experts.down_proj"}, experts * hidden, width,
          DType::kBF16);
    }
    for (int64_t e = 0; spelling_ != Spelling::kModules && e < experts; ++e)
      add_mlp(fmt::format("ffn.experts.{}", e), "", width, e);
    add_mlp("ffn.shared_experts", "mlp.shared_experts", config_.shared_experts * width, kNotRouted);
  }

  void add_mlp(const std::string& files, const std::string& modules, int64_t width, int64_t expert) {
    const std::string w1 = files + ".w1.weight", w2 = files + ".w2.weight", w3 = files + ".w3.weight";
    const std::string gate = modules + ".gate_proj.weight", up = modules + ".up_proj.weight",
                      down = modules + ".down_proj.weight";
    linear(Role::kMlpGate, {w1, gate}, width, config_.hidden, expert);
    linear(Role::kMlpUp, {w3, up}, width, config_.hidden, expert);
    linear(Role::kMlpDown, {w2, down}, config_.hidden, width, expert);
  }

  // --- MTP: layers with a window alone, with more around them ---

  // Hugging Face writes none.
  void add_mtp() {
    const size_t first = names_.size();
    const Spelling all = std::exchange(spelling_, Spelling::kOfficial);
    for (int64_t stage = 0; stage < config_.mtp_layers; ++stage) {
      layer_ = config_.layers + stage;
      prefix_ = fmt::format("mtp.{}.", stage);
      add_layer();
      if (config_.draft_stages)
        add_draft_parts(stage);
      else
        add_mtp_parts();
    }
    spelling_ = all;
    for (size_t i = first; i < names_.size(); ++i) {
      names_[i].role = Role::kMtp;
      names_[i].required = false;
    }
  }

  void mtp_norm(const char* name) { vector(Role::kMtp, {name, ""}, config_.hidden); }
  void mtp_head() {
    add_head_streams({"hc_head_fn", ""}, {"hc_head_base", ""}, {"hc_head_scale", ""});
    mtp_norm("norm.weight");
  }

  void add_mtp_parts() {
    for (const char* const norm : {"enorm.weight", "hnorm.weight"}) mtp_norm(norm);
    for (const char* const projection : {"e_proj.weight", "h_proj.weight"})
      linear(Role::kMtp, {projection, ""}, config_.hidden, config_.hidden);
    mtp_head();
  }

  void add_draft_parts(int64_t stage) {
    const auto any = [&](const char* name) { add(Role::kMtp, Form::kAny, {name, ""}, 0, 0, DType::kBF16); };
    if (stage == 0) {
      any("main_proj.weight");
      mtp_norm("main_norm.weight");
    }
    if (stage != config_.mtp_layers - 1) return;
    any("markov_head.markov_w1.weight");
    any("markov_head.markov_w2.weight");
    any("confidence_head.proj.weight");
    mtp_head();
  }

  const Config& config_;
  const WindowAttention& window_;
  const HyperConnections& streams_;
  Spelling spelling_;
  int64_t layer_ = kNoLayer;
  std::string prefix_;
  std::vector<TensorName> names_;
};

}  // namespace

std::vector<TensorName> tensor_names_v4(const Config& config, Spelling spelling) {
  return Table(config, spelling).all();
}

int64_t mtp_stage_layer(const Config& config, std::string_view name) {
  constexpr std::string_view kPrefix = "mtp.";
  if (!config.window || !name.starts_with(kPrefix)) return kNoLayer;
  int64_t stage = 0;
  const char *const begin = name.data() + kPrefix.size(), *const end = name.data() + name.size();
  const auto [rest, error] = std::from_chars(begin, end, stage);
  if (error != std::errc() || rest == end || *rest != '.' || stage < 0 || stage >= 1024) return kNoLayer;
  return config.layers + stage;
}

}  // namespace fulgurite::model
