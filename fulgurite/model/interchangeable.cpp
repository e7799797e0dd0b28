#include "fulgurite/model/interchangeable.h"

#include <fmt/ranges.h>

#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

// The tensors that a model reads, in the order of the computation, scales behind their weight.
class TensorsRead {
 public:
  explicit TensorsRead(const Model& model) : model_(model) {}

  const checkpoint::TensorView* next() {  // nullptr: there are no more
    for (; name_ < model_.names.size(); ++name_, part_ = 0)
      if (model_.names[name_].required && part_ < model_.parts[name_].size())
        return model_.parts[name_][part_++];
    return nullptr;
  }

 private:
  const Model& model_;
  size_t name_ = 0, part_ = 0;
};

[[noreturn]] void refuse(const checkpoint::TensorView* expected, const checkpoint::TensorView* found) {
  if (expected == nullptr)
    fail(ErrorKind::kModel, "{}: expected no such tensor (the old weights have none), found {}",
         printable(found->name), checkpoint::describe(*found));
  std::string what = "none";
  if (found != nullptr) {
    what = checkpoint::describe(*found);
    if (found->name != expected->name) what = printable(found->name) + " " + what + " in its place";
  }
  fail(ErrorKind::kModel, "{}: expected {} as in the old weights, found {}", printable(expected->name),
       checkpoint::describe(*expected), what);
}

void require_same_tensors(const Model& expected, const Model& found) {
  TensorsRead ours(expected), theirs(found);
  for (;;) {
    const checkpoint::TensorView *const a = ours.next(), *const b = theirs.next();
    if (a == nullptr && b == nullptr) return;
    if (a == nullptr || b == nullptr || a->name != b->name || a->dtype != b->dtype || a->shape != b->shape)
      refuse(a, b);
  }
}

using Facts = std::vector<std::pair<const char*, std::string>>;

template <class Value>
void add(Facts& facts, const char* key, const Value& value) {
  facts.emplace_back(key, fmt::format("{}", value));
}

std::string text(const std::optional<Yarn>& yarn) {
  if (!yarn) return "none";
  return fmt::format("factor {}, original {}, beta {} and {}, mscale {}", yarn->factor,
                     yarn->original_positions, yarn->beta_fast, yarn->beta_slow, yarn->mscale_all_dim);
}

std::string text(const std::optional<Quantization>& quantization) {
  if (!quantization) return "none";
  const Quantization& q = *quantization;
  return fmt::format("blocks of {}x{}, scales {}, of activations {}, experts {}", q.block.rows,
                     q.block.columns == kWhole ? "row" : fmt::format("{}", q.block.columns),
                     q.scales == ScaleFormat::kE8M0 ? "e8m0" : "fp32",
                     q.activation_scale == ScaleRounding::kPow2 ? "ue8m0" : "fp32",
                     q.experts == Fp4::kNone    ? "fp8"
                     : q.experts == Fp4::kMxfp4 ? "mxfp4"
                                                : "nvfp4");
}

std::string text(const std::optional<WindowAttention>& window) {
  if (!window) return "none";
  return fmt::format(
      "sliding_window {}, head_dim {}, o_groups {}, o_lora_rank {}, compress_rope_theta {}, "
      "compress_ratios {}",
      window->window, window->head_dim, window->o_groups, window->o_lora, window->compressed_rope_base,
      fmt::join(window->ratios, " "));
}

std::string text(const std::optional<HyperConnections>& streams) {
  if (!streams) return "none";
  return fmt::format("hc_mult {}, hc_sinkhorn_iters {}, hc_eps {}", streams->count,
                     streams->sinkhorn_iterations, streams->eps);
}

std::string sharing(const Config& config) {
  std::string text;
  for (int64_t layer = 0; layer < config.layers; ++layer) text += config.has_indexer(layer) ? "F" : "S";
  return text;
}

// Everything that a plan, or who asks it for a model's dimensions, has read; each number in full.
Facts facts_of(const Config& c) {
  Facts facts;
  add(facts, "model_type", name(c.family));
  add(facts, "vocab_size", c.vocabulary);
  add(facts, "hidden_size", c.hidden);
  add(facts, "num_hidden_layers", c.layers);
  add(facts, "first_k_dense_replace", c.dense_layers);
  add(facts, "max_position_embeddings", c.max_positions);
  add(facts, "rms_norm_eps", c.norm_eps);
  add(facts, "eps of the latent norms", c.latent_norm_eps);
  add(facts, "num_attention_heads", c.heads);
  add(facts, "q_lora_rank", c.q_lora);
  add(facts, "kv_lora_rank", c.kv_lora);
  add(facts, "qk_nope_head_dim", c.nope);
  add(facts, "qk_rope_head_dim", c.rope);
  add(facts, "v_head_dim", c.value);
  add(facts, "rope_theta", c.rope_base);
  add(facts, "rope_scaling", text(c.yarn));
  add(facts, "index_n_heads", c.index_heads);
  add(facts, "index_head_dim", c.index_dim);
  add(facts, "index_topk", c.index_topk);
  add(facts, "indexer_types", sharing(c));
  add(facts, "intermediate_size", c.dense_width);
  add(facts, "moe_intermediate_size", c.expert_width);
  add(facts, "n_routed_experts", c.experts);
  add(facts, "n_shared_experts", c.shared_experts);
  add(facts, "num_experts_per_tok", c.experts_per_token);
  add(facts, "n_group", c.expert_groups);
  add(facts, "topk_group", c.groups_kept);
  add(facts, "routed_scaling_factor", c.routed_scale);
  add(facts, "scoring_func", c.scoring == Scoring::kSigmoid ? "sigmoid" : "sqrtsoftplus");
  add(facts, "num_hash_layers", c.hash_layers);
  add(facts, "swiglu_limit", c.swiglu_limit ? fmt::format("{}", *c.swiglu_limit) : "none");
  add(facts, "window attention", text(c.window));
  add(facts, "hyper-connections", text(c.streams));
  add(facts, "bos_token_id", c.bos);
  add(facts, "eos_token_id", fmt::format("{}", fmt::join(c.eos, " ")));
  add(facts, "quantization_config", text(c.quantization));
  return facts;
}

void require_same_config(const Config& expected, const Config& found) {
  const Facts ours = facts_of(expected), theirs = facts_of(found);
  for (size_t i = 0; i < ours.size(); ++i)
    if (ours[i] != theirs[i])
      fail(ErrorKind::kModel, "config.json: {}: expected {} as of the old weights, found {}", ours[i].first,
           ours[i].second, theirs[i].second);
}

}  // namespace

void require_interchangeable(const Model& expected, const Model& found) {
  require_same_tensors(expected, found);
  require_same_config(expected.config, found.config);
}

}  // namespace fulgurite::model
