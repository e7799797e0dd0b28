#include "fulgurite/model/config.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "fulgurite/core/json.h"
#include "fulgurite/model/config_keys.h"

namespace fulgurite::model {
namespace {

Family family_of(const Fields& fields) {
  const std::string type = fields.text("model_type");
  if (type == "deepseek_v32") return Family::kDeepseekV32;
  if (type == "deepseek_v3")
    fail(ErrorKind::kModel,
         "{}: model_type \"deepseek_v3\" has no sparse-attention indexer; expected \"deepseek_v32\"",
         fields.what());
  if (type == "glm_moe_dsa") return Family::kGlm5;
  if (type == "deepseek_v4") return Family::kDeepseekV4;
  if (type == "deepseek_v41")
    fail(
        ErrorKind::kModel,
        "{}: model_type \"deepseek_v41\" shares keys and selections across layers, which is not implemented; "
        "expected \"deepseek_v4\"",
        fields.what());
  fields.wrong("model_type", "\"deepseek_v32\", \"glm_moe_dsa\" or \"deepseek_v4\"");
}

// Everything that would change the mathematics, at the only value that is implemented.
void check_fixed_choices(const Fields& fields, const Config& config) {
  only_text(fields, "hidden_act", "silu");
  only_text(fields, "scoring_func", "sigmoid");
  only_text(fields, "topk_method", "noaux_tc");
  only_boolean(fields, "norm_topk_prob", true);
  only_boolean(fields, "attention_bias", false);
  only_boolean(fields, "mlp_bias", false);
  only_boolean(fields, "tie_word_embeddings", false);
  only_boolean(fields, "indexer_rope_interleave", config.index_rope_interleaved);
  only_boolean(fields, "rope_interleave", true);
  only_text(fields, "index_k_norm_type", "layer");
  only_integer(fields, "moe_layer_freq", 1);
  refuse_keys(fields,
              {"index_init_tokens", "index_local_tokens", "partial_rotary_factor", "swiglu_limit",
               "logit_scale", "compression_config", "sliding_window", "compress_ratios", "layer_types"});
}

void read_dimensions(const Fields& fields, Config& config) {
  read_common_dimensions(fields, config);
  config.dense_layers = fields.integer("first_k_dense_replace", 0, config.layers);
  only_integer(fields, "num_key_value_heads", config.heads);
  config.kv_lora = fields.integer("kv_lora_rank", 1, kWidest);
  config.nope = fields.integer("qk_nope_head_dim", 1, kWidest);
  config.rope = fields.integer("qk_rope_head_dim", 2, kWidest);
  config.value = fields.integer("v_head_dim", 1, kWidest);
  only_integer(fields, "qk_head_dim", config.nope + config.rope);
  if (config.rope % 2 != 0) fields.wrong("qk_rope_head_dim", "an even number");
}

// Of each layer "dense" or "sparse": the layers that first_k_dense_replace names.
void check_layer_types(const Fields& fields, const Config& config) {
  constexpr const char* kKey = "mlp_layer_types";
  if (!fields.has(kKey)) return;
  Json expected = Json::array();
  for (int64_t i = 0; i < config.layers; ++i) expected.push_back(config.dense(i) ? "dense" : "sparse");
  if (fields.value(kKey) != expected)
    fields.wrong(kKey, fmt::format("{} times \"dense\", then \"sparse\" (first_k_dense_replace)",
                                   config.dense_layers));
}

// A word or a letter a layer.
std::vector<bool> read_sharing(const Fields& fields, const char* key, const std::vector<std::string>& layers,
                               const std::string& full, const std::string& shared, int64_t expected) {
  if (static_cast<int64_t>(layers.size()) != expected)
    fields.wrong(key, fmt::format("a value for each of {} layers", expected));
  std::vector<bool> shares;
  for (const std::string& layer : layers) {
    if (layer != full && layer != shared) fields.wrong(key, fmt::format("\"{}\" or \"{}\"", full, shared));
    shares.push_back(layer == shared);
  }
  return shares;
}

std::vector<bool> sharing_of_types(const Fields& fields, int64_t layers) {
  const Json& types = fields.value("indexer_types");
  std::vector<std::string> words;
  if (!types.is_array()) fields.wrong("indexer_types", "\"full\" or \"shared\" of each layer");
  for (const Json& type : types) words.push_back(type.is_string() ? type.get<std::string>() : "");
  return read_sharing(fields, "indexer_types", words, "full", "shared", layers);
}

std::vector<bool> sharing_of_pattern(const Fields& fields, int64_t layers) {
  std::vector<std::string> letters;
  for (const char letter : fields.text("index_topk_pattern")) letters.emplace_back(1, letter);
  return read_sharing(fields, "index_topk_pattern", letters, "F", "S", layers);
}

// Layer i has an indexer where max(i - offset + 1, 0) is a multiple of the frequency.
std::vector<bool> sharing_of_frequency(const Fields& fields, int64_t layers) {
  const int64_t frequency = fields.integer("index_topk_freq", 1, kMostLayers);
  const int64_t offset =
      fields.has("index_skip_topk_offset") ? fields.integer("index_skip_topk_offset", 0, kMostLayers) : 2;
  std::vector<bool> shares;
  for (int64_t i = 0; i < layers; ++i)
    shares.push_back(std::max<int64_t>(i - offset + 1, 0) % frequency != 0);
  return shares;
}

// Three spellings of one thing: where several stand they must agree.
void read_index_sharing(const Fields& fields, Config& config) {
  struct Spelling {
    const char* key;
    std::vector<bool> (*read)(const Fields& fields, int64_t layers);
  };
  constexpr std::array<Spelling, 3> kSpellings{{{"indexer_types", sharing_of_types},
                                                {"index_topk_pattern", sharing_of_pattern},
                                                {"index_topk_freq", sharing_of_frequency}}};
  const char* first = nullptr;
  for (const auto& [key, read] : kSpellings) {
    if (!fields.has(key)) continue;
    std::vector<bool> shares = read(fields, config.layers);
    if (shares.front()) fields.wrong(key, "an indexer in the first layer: there is none before to share");
    if (first != nullptr && shares != config.shares_index)
      fields.wrong(key, fmt::format("the same layers as {}", first));
    if (first == nullptr) first = key;
    config.shares_index = std::move(shares);
  }
  if (std::ranges::find(config.shares_index, true) == config.shares_index.end()) config.shares_index.clear();
}

void read_feed_forward(const Fields& fields, Config& config) {
  config.dense_width = fields.integer("intermediate_size", 1, kWidest);
  read_experts(fields, config);
  config.expert_groups = fields.integer("n_group", 1, config.experts);
  config.groups_kept = fields.integer("topk_group", 1, config.expert_groups);
  if (config.experts % config.expert_groups != 0)
    fields.wrong("n_group", fmt::format("a divisor of n_routed_experts, {}", config.experts));
  const int64_t reachable = config.experts / config.expert_groups * config.groups_kept;
  if (config.experts_per_token > reachable)
    fields.wrong("num_experts_per_tok",
                 fmt::format("at most the {} experts of topk_group groups", reachable));
}

// Keys that change the rotation and are not known here must not pass unseen.
void only_known_keys(const Fields& scaling) {
  static constexpr std::array kKnown{
      "type",      "rope_type", "rope_theta", "factor",        "original_max_position_embeddings",
      "beta_fast", "beta_slow", "mscale",     "mscale_all_dim"};
  for (const std::string& key : scaling.keys())
    if (std::ranges::find(kKnown, key) == kKnown.end() && scaling.has(key))
      scaling.wrong(key, "no such key (not implemented)");
}

Yarn read_yarn(const Fields& scaling) {
  Yarn yarn = read_yarn_ramp(scaling);
  // The softmax scale takes mscale_all_dim; the tables take the ratio of the two factors, which is 1 where
  // both keys are equal.
  yarn.mscale_all_dim = scaling.number("mscale_all_dim", 1e-3, 100.0);
  if (scaling.number("mscale", 1e-3, 100.0) != yarn.mscale_all_dim)
    scaling.wrong("mscale", fmt::format("mscale_all_dim, {:g}", yarn.mscale_all_dim));
  return yarn;
}

// Two spellings: rope_theta with rope_scaling, or rope_parameters that holds both.
void read_rope(const Fields& fields, Config& config) {
  const bool joined = fields.has("rope_parameters");
  if (joined && fields.has("rope_scaling"))
    fields.wrong("rope_scaling", "no such key beside rope_parameters");
  const Fields base = joined ? fields.object("rope_parameters") : fields;
  config.rope_base = base.number("rope_theta", 1.0, 1e12);
  if (!joined && !fields.has("rope_scaling")) return;
  const Fields scaling = joined ? base : fields.object("rope_scaling");
  only_known_keys(scaling);
  const char* const key = scaling.has("rope_type") ? "rope_type" : "type";
  const std::string type = scaling.text(key);
  only_text(scaling, "type", type);
  if (type == "default") return;
  if (type != "yarn") scaling.wrong(key, "\"yarn\" or \"default\"");
  config.yarn = read_yarn(scaling);
}

BlockShape read_block(const Fields& json) {
  const Json& block = json.value("weight_block_size");
  const auto side = [&](size_t i) {
    return block[i].is_number_integer() ? block[i].get<int64_t>() : int64_t{0};
  };
  if (!block.is_array() || block.size() != 2 || side(0) < 1 || side(1) < 1 || side(0) > kWidest ||
      side(1) > kWidest)
    json.wrong("weight_block_size", "two positive integers");
  return {side(0), side(1)};
}

std::vector<std::string> read_modules(const Fields& json, const char* key) {
  std::vector<std::string> modules;
  if (!json.has(key)) return modules;
  const Json& list = json.value(key);
  if (!list.is_array() || !std::ranges::all_of(list, [](const Json& name) { return name.is_string(); }))
    json.wrong(key, "names of modules");
  return list.get<std::vector<std::string>>();
}

Quantization read_fp8(const Fields& json) {
  only_text(json, "fmt", "e4m3");
  only_text(json, "activation_scheme", "dynamic");
  if (json.has("ignored_layers")) json.wrong("ignored_layers", "no such key (not implemented)");
  Quantization quantization;
  quantization.block = {1, kWhole};
  quantization.not_converted = read_modules(json, "modules_to_not_convert");
  if (json.has("weight_block_size")) quantization.block = read_block(json);
  if (json.has("scale_fmt")) {
    const std::string format = json.text("scale_fmt");
    if (format != "ue8m0" && format != "fp32") json.wrong("scale_fmt", "\"ue8m0\" or \"fp32\"");
    if (format == "ue8m0") quantization.activation_scale = ScaleRounding::kPow2;
  }
  return quantization;
}

// Which tensors are quantized, the tensors tell; here stands how.
std::optional<Quantization> read_quantization(const Fields& fields, Family family) {
  if (!fields.has("quantization_config")) {
    if (fields.has("expert_dtype")) fields.wrong("expert_dtype", "no such key without quantization_config");
    return std::nullopt;
  }
  const Fields json = fields.object("quantization_config");
  const std::string method = json.text("quant_method");
  if (method == "modelopt") {
    if (json.text("quant_algo") != "NVFP4") json.wrong("quant_algo", "\"NVFP4\"");
    return Quantization{{1, kWhole}, ScaleRounding::kNone, Fp4::kNvfp4, false, ScaleFormat::kF32};
  }
  if (method != "fp8") json.wrong("quant_method", "\"fp8\" or \"modelopt\"");
  Quantization quantization = read_fp8(json);
  if (family == Family::kDeepseekV4) quantization.scales = ScaleFormat::kE8M0;
  if (!fields.has("expert_dtype")) {
    quantization.experts_implied = family == Family::kDeepseekV4;
    if (quantization.experts_implied) quantization.experts = Fp4::kMxfp4;
    return quantization;
  }
  const std::string experts = fields.text("expert_dtype");
  if (experts == "fp4")
    quantization.experts = Fp4::kMxfp4;
  else if (experts == "nvfp4")
    quantization.experts = Fp4::kNvfp4;
  else if (experts != "fp8")
    fields.wrong("expert_dtype", "\"fp8\", \"fp4\" or \"nvfp4\"");
  return quantization;
}

void read_v32(const Fields& fields, Config& config) {
  check_fixed_choices(fields, config);
  read_dimensions(fields, config);
  check_layer_types(fields, config);
  read_indexer(fields, config);
  read_index_sharing(fields, config);
  read_feed_forward(fields, config);
  read_rope(fields, config);
}

void read_special_tokens(const Fields& fields, Config& config) {
  if (fields.has("bos_token_id") || config.family != Family::kGlm5)
    config.bos = static_cast<int32_t>(fields.integer("bos_token_id", 0, config.vocabulary - 1));
  const Json& eos = fields.value("eos_token_id");
  if (!eos.is_array()) {
    config.eos.push_back(static_cast<int32_t>(fields.integer("eos_token_id", 0, config.vocabulary - 1)));
    return;
  }
  if (eos.empty()) fields.wrong("eos_token_id", "at least one id");
  for (const Json& id : eos) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() >= static_cast<uint64_t>(config.vocabulary))
      fields.wrong("eos_token_id", fmt::format("integers in [0, {}]", config.vocabulary - 1));
    config.eos.push_back(id.get<int32_t>());
  }
}

}  // namespace

std::string_view name(Family family) {
  switch (family) {
    case Family::kDeepseekV32:
      return "deepseek_v32";
    case Family::kDeepseekV4:
      return "deepseek_v4";
    case Family::kGlm5:
      return "glm_moe_dsa";
  }
  FULGURITE_ASSERT(false, "family {}", static_cast<int>(family));
}

std::optional<bool> interleaves_index_rope(std::string_view model_type) {
  if (model_type == name(Family::kDeepseekV32)) return false;
  if (model_type == name(Family::kGlm5) || model_type == name(Family::kDeepseekV4)) return true;
  return std::nullopt;
}

float Config::softmax_scale() const {
  const double m = yarn ? 0.1 * yarn->mscale_all_dim * std::log(yarn->factor) + 1.0 : 1.0;
  return static_cast<float>(m * m / std::sqrt(static_cast<double>(nope + rope)));
}

Config parse_config(std::string_view text, const std::string& what) {
  const Json json = parse_json(text, what, ErrorKind::kConfig);
  const Fields fields(json, what);
  Config config;
  config.family = family_of(fields);
  config.index_rope_interleaved = *interleaves_index_rope(name(config.family));
  if (fields.has("num_nextn_predict_layers"))
    config.mtp_layers = fields.integer("num_nextn_predict_layers", 0, 16);
  if (config.family == Family::kDeepseekV4)
    read_v4(fields, config);
  else
    read_v32(fields, config);
  read_special_tokens(fields, config);
  config.quantization = read_quantization(fields, config.family);
  return config;
}

}  // namespace fulgurite::model
