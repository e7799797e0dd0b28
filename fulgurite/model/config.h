#pragma once
// What config.json says of a model, as numbers that have been checked. Field names are the paper's; the key
// of config.json stands beside each. Whatever would change the mathematics and is not implemented is refused
// by name.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/core/matrix.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite::model {

enum class Family { kDeepseekV32, kGlm5, kDeepseekV4 };
std::string_view name(Family family);  // model_type

// Does the indexer of this model_type rotate pairs of neighbours, or halves? Nothing: no such family.
std::optional<bool> interleaves_index_rope(std::string_view model_type);

struct Yarn {  // rope_scaling
  double factor = 1.0;
  double original_positions = 0;  // original_max_position_embeddings
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale_all_dim = 0.0;  // enters the softmax scale
};

enum class Fp4 { kNone, kMxfp4, kNvfp4 };

// quantization_config: fp8 e4m3, dynamic activations; or NVFP4 of NVIDIA's Model Optimizer.
struct Quantization {
  BlockShape block;  // weight_block_size; where there is none {1, kWhole}: a scale an output channel
  ScaleRounding activation_scale = ScaleRounding::kNone;  // of activations; kPow2: scale_fmt "ue8m0"
  Fp4 experts = Fp4::kNone;                               // expert_dtype: "fp4", "nvfp4"
  bool experts_implied = false;  // no expert_dtype, in a family where the tensors tell; `experts` is a guess
  ScaleFormat scales = ScaleFormat::kF32;  // of fp8 blocks, as the family's own files store them
  // modules_to_not_convert. What is quantized the tensors tell; this tells where there are none.
  std::vector<std::string> not_converted = {};
};

// How a router's logits become scores.
enum class Scoring { kSigmoid, kSqrtSoftplus };

// DeepSeek-V4's attention. A head's query, the one key and the one value have head_dim = nope + rope columns,
// and a key is its own value. A query sees a window of positions in every layer, and in layers with a ratio
// also entries that stand for so many positions each: of ratio 4 those that an indexer chose, of ratio 128
// all. Layers with a ratio rotate by compressed_rope_base and YaRN, the others by rope_base without YaRN.
struct WindowAttention {
  int64_t window = 0;                 // sliding_window, the query's own position included
  int64_t head_dim = 0;               // head_dim
  int64_t o_groups = 0;               // o_groups: of heads, each with an output projection of its own
  int64_t o_lora = 0;                 // o_lora_rank, of a group
  std::vector<int64_t> ratios;        // compress_ratios of each layer: 0, 4 or 128
  double compressed_rope_base = 0.0;  // compress_rope_theta
};

// Several residual streams, mixed before and after each block.
struct HyperConnections {
  int64_t count = 0;                // hc_mult
  int64_t sinkhorn_iterations = 0;  // hc_sinkhorn_iters
  float eps = 0.0f;                 // hc_eps
};

struct Config {
  Family family = Family::kDeepseekV32;
  int64_t vocabulary = 0;         // vocab_size
  int64_t hidden = 0;             // hidden_size
  int64_t layers = 0;             // num_hidden_layers
  int64_t dense_layers = 0;       // first_k_dense_replace
  int64_t max_positions = 0;      // max_position_embeddings
  float norm_eps = 0.0f;          // rms_norm_eps
  float latent_norm_eps = 1e-6f;  // of the q_a and kv_a norms: no key, fixed in the published code

  int64_t heads = 0;       // num_attention_heads
  int64_t q_lora = 0;      // q_lora_rank
  int64_t kv_lora = 0;     // kv_lora_rank
  int64_t nope = 0;        // qk_nope_head_dim
  int64_t rope = 0;        // qk_rope_head_dim
  int64_t value = 0;       // v_head_dim
  double rope_base = 0.0;  // rope_theta
  std::optional<Yarn> yarn;

  int64_t index_heads = 0;              // index_n_heads
  int64_t index_dim = 0;                // index_head_dim
  int64_t index_topk = 0;               // index_topk
  bool index_rope_interleaved = false;  // the family's; indexer_rope_interleave may say the same
  // indexer_types, or index_topk_pattern, or index_topk_freq: of each layer, whether it selects what the
  // layer before it selected. Empty: none does.
  std::vector<bool> shares_index;

  int64_t dense_width = 0;        // intermediate_size
  int64_t expert_width = 0;       // moe_intermediate_size
  int64_t experts = 0;            // n_routed_experts
  int64_t shared_experts = 0;     // n_shared_experts: one MLP of shared_experts * expert_width
  int64_t experts_per_token = 0;  // num_experts_per_tok
  int64_t expert_groups = 1;      // n_group
  int64_t groups_kept = 1;        // topk_group
  float routed_scale = 1.0f;      // routed_scaling_factor

  Scoring scoring = Scoring::kSigmoid;  // scoring_func
  int64_t hash_layers = 0;              // num_hash_layers: the first so many look experts up by token id
  std::optional<float> swiglu_limit;    // swiglu_limit: gate at most, up within +-

  std::optional<WindowAttention> window;    // in the place of the latent attention: kv_lora is 0 then
  std::optional<HyperConnections> streams;  // in the place of the one residual stream

  int64_t mtp_layers = 0;      // num_nextn_predict_layers, of a later V4 its draft stages: known, left out
  bool draft_stages = false;   // dspark_* keys: the MTP layers are stages of a drafting model
  std::optional<int32_t> bos;  // bos_token_id; GLM-5 has none
  std::vector<int32_t> eos;    // eos_token_id, one or several
  std::optional<Quantization> quantization;

  bool dense(int64_t layer) const { return layer < dense_layers; }
  // Where a routed expert's weight is multiplied: before its down projection, or after it.
  bool weight_before_down() const { return family == Family::kDeepseekV4; }
  bool hashed(int64_t layer) const { return layer < hash_layers; }
  // 0: the layer has no compressed entries; so has none what follows the last layer.
  int64_t ratio(int64_t layer) const {
    return window && layer < layers ? window->ratios[static_cast<size_t>(layer)] : 0;
  }
  bool has_indexer(int64_t layer) const {
    if (window) return ratio(layer) == 4;
    const auto at = static_cast<size_t>(layer);
    return at >= shares_index.size() || !shares_index[at];
  }
  // (nope + rope)^-1/2 * (0.1 mscale_all_dim ln(factor) + 1)^2, computed in double, rounded once.
  float softmax_scale() const;
};

// `what` names the text in messages. Throws Error{kConfig}, or Error{kModel} for a family that is not
// supported.
Config parse_config(std::string_view json, const std::string& what);

}  // namespace fulgurite::model
