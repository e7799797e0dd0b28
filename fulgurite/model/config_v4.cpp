// Source: config.json of deepseek-ai/DeepSeek-V4-Flash and -Pro; Hugging Face transformers 5.17,
// configuration_deepseek_v4.py (its keys are the second spelling).

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>

#include "fulgurite/model/config_keys.h"

namespace fulgurite::model {
namespace {

constexpr std::array<const char*, 4> kDraftKeys{"dspark_block_size", "dspark_noise_token_id",
                                                "dspark_target_layer_ids", "dspark_markov_rank"};

void check_fixed_choices(const Fields& fields) {
  only_text(fields, "hidden_act", "silu");
  only_text(fields, "scoring_func", "sqrtsoftplus");
  only_text(fields, "topk_method", "noaux_tc");
  only_boolean(fields, "norm_topk_prob", true);
  only_boolean(fields, "attention_bias", false);
  only_boolean(fields, "mlp_bias", false);
  only_boolean(fields, "tie_word_embeddings", false);
  only_integer(fields, "num_key_value_heads", 1);
  only_integer(fields, "first_k_dense_replace", 0);
  only_integer(fields, "n_group", 1);
  only_integer(fields, "topk_group", 1);
  refuse_keys(fields, {"kv_source_layer_ids", "index_source_layer_ids", "engram_layer_ids", "indexer_types",
                       "index_topk_pattern", "index_topk_freq", "kv_lora_rank", "indexer_rope_interleave",
                       "index_init_tokens", "index_local_tokens", "logit_scale", "compression_config"});
  for (const std::string& key : fields.keys())
    if (key.starts_with("dspark_") && std::ranges::find(kDraftKeys, key) == kDraftKeys.end())
      fields.wrong(key, "no such key (not implemented)");
}

// qk_rope_head_dim, or the share of head_dim that is rotated.
int64_t read_rotated(const Fields& fields, int64_t head_dim) {
  if (!fields.has("partial_rotary_factor")) return fields.integer("qk_rope_head_dim", 2, head_dim - 1);
  const double rotated = fields.number("partial_rotary_factor", 0.0, 1.0) * static_cast<double>(head_dim);
  const auto columns = static_cast<int64_t>(std::lround(rotated));
  if (std::abs(rotated - static_cast<double>(columns)) > 1e-6 || columns < 2 || columns >= head_dim)
    fields.wrong("partial_rotary_factor", "a number of columns of head_dim, 2 at least and not all");
  only_integer(fields, "qk_rope_head_dim", columns);
  return columns;
}

void read_attention(const Fields& fields, Config& config) {
  WindowAttention& window = config.window.emplace();
  window.head_dim = fields.integer("head_dim", 3, kWidest);
  window.window = fields.integer("sliding_window", 1, kLongestContext);
  window.o_groups = fields.integer("o_groups", 1, config.heads);
  window.o_lora = fields.integer("o_lora_rank", 1, kWidest);
  if (config.heads % window.o_groups != 0)
    fields.wrong("o_groups", fmt::format("a divisor of num_attention_heads, {}", config.heads));
  config.rope = read_rotated(fields, window.head_dim);
  if (config.rope % 2 != 0) fields.wrong("qk_rope_head_dim", "an even number");
  config.nope = window.head_dim - config.rope;
  config.value = window.head_dim;
  config.latent_norm_eps = config.norm_eps;
}

// --- which layer has which ratio ---

void require_ratio(const Fields& fields, const char* key, int64_t ratio) {
  if (ratio != 0 && ratio != 4 && ratio != 128) fields.wrong(key, "ratios of 0, 4 or 128");
}

// Entries beyond the layers are those of MTP layers.
std::vector<int64_t> listed_ratios(const Fields& fields, int64_t layers) {
  constexpr const char* kKey = "compress_ratios";
  const Json& list = fields.value(kKey);
  if (!list.is_array() || static_cast<int64_t>(list.size()) < layers)
    fields.wrong(kKey, fmt::format("a ratio for each of {} layers", layers));
  std::vector<int64_t> ratios;
  for (const Json& ratio : list) {
    ratios.push_back(ratio.is_number_unsigned() ? ratio.get<int64_t>() : -1);
    require_ratio(fields, kKey, ratios.back());
  }
  return ratios;
}

// The ratio of a kind of layer: compress_rates, or a key of its own, or what it is in the published models.
int64_t rate_of(const Fields& fields, const char* kind, const char* own_key, int64_t usual) {
  int64_t rate = usual;
  if (fields.has("compress_rates")) {
    const Fields rates = fields.object("compress_rates");
    if (rates.has(kind)) rate = rates.integer(kind, 0, kLongestContext);
    if (rate != usual) rates.wrong(kind, fmt::format("{}", usual));
  }
  only_integer(fields, own_key, rate);
  return rate;
}

std::vector<int64_t> typed_ratios(const Fields& fields, int64_t layers) {
  constexpr const char* kKey = "layer_types";
  const Json& list = fields.value(kKey);
  if (!list.is_array() || static_cast<int64_t>(list.size()) < layers)
    fields.wrong(kKey, fmt::format("a type for each of {} layers", layers));
  std::vector<int64_t> ratios;
  for (const Json& type : list) {
    if (type == "sliding_attention")
      ratios.push_back(0);
    else if (type == "compressed_sparse_attention")
      ratios.push_back(rate_of(fields, "compressed_sparse_attention", "compress_rate_csa", 4));
    else if (type == "heavily_compressed_attention")
      ratios.push_back(rate_of(fields, "heavily_compressed_attention", "compress_rate_hca", 128));
    else
      fields.wrong(kKey,
                   "\"sliding_attention\", \"compressed_sparse_attention\" or "
                   "\"heavily_compressed_attention\" of each layer");
  }
  return ratios;
}

void read_ratios(const Fields& fields, Config& config) {
  std::vector<int64_t> ratios, typed;
  if (fields.has("layer_types")) typed = typed_ratios(fields, config.layers);
  if (fields.has("compress_ratios") || typed.empty()) ratios = listed_ratios(fields, config.layers);
  if (config.draft_stages && static_cast<int64_t>(ratios.size()) > config.layers)
    config.mtp_layers = static_cast<int64_t>(ratios.size()) - config.layers;
  typed.resize(typed.empty() ? 0 : static_cast<size_t>(config.layers));
  ratios.resize(ratios.empty() ? 0 : static_cast<size_t>(config.layers));
  if (!typed.empty() && !ratios.empty() && typed != ratios)
    fields.wrong("layer_types", "the same layers as compress_ratios");
  config.window->ratios = typed.empty() ? std::move(ratios) : std::move(typed);
}

// --- rotation ---

void only_known_keys(const Fields& scaling) {
  static constexpr std::array kKnown{"type",
                                     "rope_type",
                                     "rope_theta",
                                     "factor",
                                     "original_max_position_embeddings",
                                     "beta_fast",
                                     "beta_slow",
                                     "partial_rotary_factor",
                                     "attention_factor"};
  for (const std::string& key : scaling.keys())
    if (std::ranges::find(kKnown, key) == kKnown.end() && scaling.has(key))
      scaling.wrong(key, "no such key (not implemented)");
}

void only_number(const Fields& fields, const char* key, double value) {
  if (fields.has(key) && fields.number(key, 0.0, 1e12) != value)
    fields.wrong(key, fmt::format("{:g}", value));
}

// What cosines, sines and the softmax scale would be multiplied with is 1 in this family.
std::optional<Yarn> read_scaling(const Fields& scaling, const Config& config) {
  only_known_keys(scaling);
  only_number(scaling, "attention_factor", 1.0);
  const double rotated = static_cast<double>(config.rope) / static_cast<double>(config.window->head_dim);
  only_number(scaling, "partial_rotary_factor", rotated);
  const char* const key = scaling.has("rope_type") ? "rope_type" : "type";
  const std::string type = scaling.text(key);
  only_text(scaling, "type", type);
  if (type == "default") return std::nullopt;
  if (type != "yarn") scaling.wrong(key, "\"yarn\" or \"default\"");
  return read_yarn_ramp(scaling);
}

// rope_parameters by layer: "main" of those without a ratio, "compress" of those with one.
void read_two_rotations(const Fields& both, Config& config) {
  const Fields main = both.object("main"), compressed = both.object("compress");
  config.rope_base = main.number("rope_theta", 1.0, 1e12);
  config.window->compressed_rope_base = compressed.number("rope_theta", 1.0, 1e12);
  if (read_scaling(main, config)) main.wrong("rope_type", "\"default\"");
  config.yarn = read_scaling(compressed, config);
}

void read_rope(const Fields& fields, Config& config) {
  const bool joined = fields.has("rope_parameters");
  if (joined && fields.has("rope_scaling"))
    fields.wrong("rope_scaling", "no such key beside rope_parameters");
  if (joined && fields.object("rope_parameters").has("main")) {
    read_two_rotations(fields.object("rope_parameters"), config);
    only_number(fields, "rope_theta", config.rope_base);
    only_number(fields, "compress_rope_theta", config.window->compressed_rope_base);
    return;
  }
  config.rope_base = fields.number("rope_theta", 1.0, 1e12);
  config.window->compressed_rope_base = fields.number("compress_rope_theta", 1.0, 1e12);
  if (!joined && !fields.has("rope_scaling")) return;
  const Fields scaling = fields.object(joined ? "rope_parameters" : "rope_scaling");
  only_number(scaling, "rope_theta", config.rope_base);
  config.yarn = read_scaling(scaling, config);
}

// --- the rest ---

// num_hash_layers, or mlp_layer_types: "hash_moe" of the first so many, "moe" of the others.
void read_hash_layers(const Fields& fields, Config& config) {
  if (!fields.has("mlp_layer_types")) {
    config.hash_layers = std::min(fields.integer("num_hash_layers", 0, kMostLayers), config.layers);
    return;
  }
  const Json& types = fields.value("mlp_layer_types");
  bool known = types.is_array() && static_cast<int64_t>(types.size()) >= config.layers;
  for (int64_t i = 0; known && i < config.layers; ++i) {
    const Json& type = types[static_cast<size_t>(i)];
    known = type == "moe" || (type == "hash_moe" && config.hash_layers == i);
    if (type == "hash_moe") ++config.hash_layers;
  }
  if (!known) fields.wrong("mlp_layer_types", "\"hash_moe\" of the first layers, \"moe\" of the others");
  if (fields.has("num_hash_layers") &&
      std::min(fields.integer("num_hash_layers", 0, kMostLayers), config.layers) != config.hash_layers)
    fields.wrong("num_hash_layers", fmt::format("{}, as mlp_layer_types has", config.hash_layers));
}

void read_streams(const Fields& fields, Config& config) {
  HyperConnections& streams = config.streams.emplace();
  streams.count = fields.integer("hc_mult", 1, 64);
  streams.sinkhorn_iterations = fields.integer("hc_sinkhorn_iters", 1, 1000);
  streams.eps = static_cast<float>(fields.number("hc_eps", 1e-12, 1e-1));
}

}  // namespace

void read_v4(const Fields& fields, Config& config) {
  check_fixed_choices(fields);
  config.draft_stages = std::ranges::any_of(kDraftKeys, [&](const char* key) { return fields.has(key); });
  config.scoring = Scoring::kSqrtSoftplus;
  read_common_dimensions(fields, config);
  read_attention(fields, config);
  read_ratios(fields, config);
  read_indexer(fields, config);
  read_experts(fields, config);
  read_rope(fields, config);
  read_hash_layers(fields, config);
  read_streams(fields, config);
  config.swiglu_limit = static_cast<float>(fields.number("swiglu_limit", 1e-3, 1e6));
}

}  // namespace fulgurite::model
