#include "fulgurite/model/config_keys.h"

namespace fulgurite::model {

void only_text(const Fields& fields, std::string_view key, std::string_view value) {
  if (fields.has(key) && fields.text(key) != value) fields.wrong(key, fmt::format("\"{}\"", value));
}
void only_boolean(const Fields& fields, std::string_view key, bool value) {
  if (fields.has(key) && fields.boolean(key) != value) fields.wrong(key, value ? "true" : "false");
}
void only_integer(const Fields& fields, std::string_view key, int64_t value) {
  if (fields.has(key) && fields.value(key) != value) fields.wrong(key, fmt::format("{}", value));
}
void refuse_keys(const Fields& fields, const std::vector<const char*>& keys) {
  for (const char* const key : keys)
    if (fields.has(key)) fields.wrong(key, "no such key (not implemented for this family)");
}

void read_common_dimensions(const Fields& fields, Config& config) {
  config.vocabulary = fields.integer("vocab_size", 1, kLargestVocabulary);
  config.hidden = fields.integer("hidden_size", 1, kWidest);
  config.layers = fields.integer("num_hidden_layers", 1, kMostLayers);
  config.max_positions = fields.integer("max_position_embeddings", 1, kLongestContext);
  config.norm_eps = static_cast<float>(fields.number("rms_norm_eps", 1e-12, 1e-1));
  config.heads = fields.integer("num_attention_heads", 1, kMostHeads);
  config.q_lora = fields.integer("q_lora_rank", 1, kWidest);
}

void read_indexer(const Fields& fields, Config& config) {
  for (const char* const key : {"index_n_heads", "index_head_dim", "index_topk"})
    if (!fields.has(key))
      fail(ErrorKind::kModel, "{}: key \"{}\" is missing: the model has no sparse-attention indexer",
           fields.what(), key);
  config.index_heads = fields.integer("index_n_heads", 1, kMostHeads);
  config.index_dim = fields.integer("index_head_dim", 2, kWidest);
  config.index_topk = fields.integer("index_topk", 1, kLongestContext);
  if ((config.index_dim & (config.index_dim - 1)) != 0) fields.wrong("index_head_dim", "a power of two");
  if (config.index_dim < config.rope)
    fields.wrong("index_head_dim", fmt::format("at least qk_rope_head_dim, {}", config.rope));
}

void read_experts(const Fields& fields, Config& config) {
  config.expert_width = fields.integer("moe_intermediate_size", 1, kWidest);
  config.experts = fields.integer("n_routed_experts", 1, kMostExperts);
  if (config.experts * config.layers > kMostExpertsInAll)
    fields.wrong("n_routed_experts",
                 fmt::format("at most {} over {} layers", kMostExpertsInAll, config.layers));
  config.shared_experts = fields.integer("n_shared_experts", 1, 64);
  config.experts_per_token = fields.integer("num_experts_per_tok", 1, config.experts);
  config.routed_scale = static_cast<float>(fields.number("routed_scaling_factor", 1e-6, 1e6));
}

Yarn read_yarn_ramp(const Fields& scaling) {
  Yarn yarn;
  yarn.factor = scaling.number("factor", 1.0, 1e6);
  yarn.original_positions =
      static_cast<double>(scaling.integer("original_max_position_embeddings", 1, kLongestContext));
  if (scaling.has("beta_fast")) yarn.beta_fast = scaling.number("beta_fast", 1e-3, 1e6);
  if (scaling.has("beta_slow")) yarn.beta_slow = scaling.number("beta_slow", 1e-3, 1e6);
  if (yarn.beta_fast <= yarn.beta_slow)
    scaling.wrong("beta_fast", fmt::format("more than beta_slow, {:g}", yarn.beta_slow));
  return yarn;
}

}  // namespace fulgurite::model
