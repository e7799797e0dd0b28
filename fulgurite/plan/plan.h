#pragma once
// Every choice of a session, made once: a value to run, print and compare. Takes no decision twice, and none
// at run time.

#include <optional>
#include <string>
#include <vector>

#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/device.h"
#include "fulgurite/model/bind.h"
#include "fulgurite/ops/rotary/rotary_table.h"
#include "fulgurite/plan/activation_layout.h"
#include "fulgurite/plan/catalog.h"
#include "fulgurite/plan/options.h"
#include "fulgurite/plan/step.h"

namespace fulgurite::plan {

using EmbeddingStep = Step<embedding::Problem, embedding::Args>;
using NormStep = Step<norm::Problem, norm::Args>;
using LinearStep = Step<linear::Problem, linear::Args>;
using RotaryStep = Step<rotary::Problem, rotary::Args>;
using LatentPrepareStep = Step<latent_prepare::Problem, latent_prepare::Args>;
using IndexerProjectionStep = Step<indexer_projection::Problem, indexer_projection::Args>;
using IndexerPrepareStep = Step<indexer_prepare::Problem, indexer_prepare::Args>;
using IndexSelectStep = Step<index_select::Problem, index_select::Args>;
using HeadProjectionStep = Step<head_projection::Problem, head_projection::Args>;
using SparseAttentionStep = Step<sparse_attention::Problem, sparse_attention::Args>;
using ExpandedAttentionStep = Step<expanded_attention::Problem, expanded_attention::Args>;
using RouterStep = Step<router::Problem, router::Args>;
using ExpertsStep = Step<experts::Problem, experts::Args>;

struct IndexerPlan {
  int64_t cache_layer = 0;           // of the index cache, which holds layers with an indexer alone
  LinearStep q;                      // q_latent -> index q
  IndexerProjectionStep projection;  // x -> index k, head gate
  IndexerPrepareStep prepare;
  IndexSelectStep select;
};

// mla = absorbed: attention in latent space, between two projections of kv_b.
struct AbsorbedPlan {
  HeadProjectionStep query;
  SparseAttentionStep attention;
  HeadProjectionStep value;
};

struct AttentionPlan {
  NormStep norm;
  LinearStep q_a;
  NormStep q_a_norm;
  LinearStep q_b;
  RotaryStep q_rope;
  LinearStep kv_a;
  LatentPrepareStep latent;
  std::optional<IndexerPlan> indexer;    // none: the selection of the layer before stands
  std::optional<AbsorbedPlan> absorbed;  // exactly one of these two
  std::optional<ExpandedAttentionStep> expanded;
  LinearStep o;
};

struct LayerPlan {
  AttentionPlan attention;
  NormStep feed_forward_norm;
  std::optional<RouterStep> router;  // none in a dense layer
  ExpertsStep experts;
};

// A line of what is printed: one implementation for one range of token counts.
struct Row {
  int64_t layer = model::kNoLayer;
  std::string operation;       // "linear q_a"
  std::string implementation;  // "cpu"
  std::string format;          // "e4m3 128x128, scales f32 [256, 384]"
  int64_t first_token = 1;
  int64_t last_token = INT64_MAX;
  int64_t workspace_bytes = 0;
  std::vector<std::string> refused;  // "NAME: reason", every row of the catalog that was asked before
  // How the implementation is handed the scales of a linear's weight: "as stored", "requantized to powers of
  // two, e8m0 packed in int32". Empty where there are none.
  std::string scales;
  bool has_kernel = true;  // in this build
  bool operator==(const Row&) const = default;
};

struct Bytes {
  int64_t viewed = 0;    // weights, where the checkpoint maps them
  int64_t prepared = 0;  // weights and tables in a layout of their own
  int64_t latent_cache = 0;
  int64_t index_layers = 0;  // layers with an indexer: none other has index keys
  int64_t index_cache = 0;   // index_keys, then the scales of codes
  int64_t index_keys = 0;    // of index_cache; where the scales begin
  int64_t activations = 0;
  int64_t requantized = 0;  // codes and scales made for rows that read other scales than the stored
  int64_t workspace = 0;    // the largest of any row; rows run one after another
  int64_t owned() const {
    return prepared + requantized + latent_cache + index_cache + activations + workspace;
  }
};

struct Plan {
  Device device;
  Options options;  // context filled in
  Numerics
      numerics;  // options.numerics with activation_scale = checkpoint resolved: what operations are given
  model::Config config;
  EmbeddingStep embedding;
  std::vector<LayerPlan> layers;
  NormStep final_norm;
  LinearStep head;
  rotary::Frequencies frequencies;
  ActivationLayout activations;
  LatentRow latent_row;  // of the latent cache
  std::vector<Row> rows;
  Bytes bytes;
};

// Throws Error{kPlan} with every reason where every row refuses, or a demand is not met (on a GPU operations
// without any row are planned as kNoImplementation); Error{kRequest} for a context beyond the
// model's.
Plan make(const model::Model& model, const Device& device, const Options& options);

inline constexpr const char* kNoImplementation = "none in this build";  // of an operation, on a GPU

// Throws Error{kPlan} if this build has no kernel for a row of the plan.
void require_kernels(const Plan& plan);

// Throws Error{kMemory} if the device has less available than the plan's owned() bytes.
void require_memory(const Plan& plan);

}  // namespace fulgurite::plan
