#pragma once
// Every choice of a session, made once: a value to run, print and compare. Takes no decision twice, and none
// at run time.

#include <optional>
#include <string>
#include <vector>

#include "fulgurite/core/device.h"
#include "fulgurite/model/bind.h"
#include "fulgurite/ops/rotary/rotary_table.h"
#include "fulgurite/plan/activation_layout.h"
#include "fulgurite/plan/caches.h"
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
using HyperConnectionStep = Step<hyper_connection::Problem, hyper_connection::Args>;
using QueryPrepareStep = Step<query_prepare::Problem, query_prepare::Args>;
using KvPrepareStep = Step<kv_prepare::Problem, kv_prepare::Args>;
using CompressorStep = Step<compressor::Problem, compressor::Args>;
using CompressedAttentionStep = Step<compressed_attention::Problem, compressed_attention::Args>;
using LargestLogitsStep = Step<largest_logits::Problem, largest_logits::Args>;

struct IndexerPlan {
  LinearStep q;                      // q_latent -> index q
  IndexerProjectionStep projection;  // x -> index k, head gate
  IndexerPrepareStep prepare;
  IndexSelectStep select;
};

// What comes before a block, and after the one before it. The norm makes the residual sum; with hyper-connections the streams
// take up the block before, and are mixed into what the norm reads.
struct SitePlan {
  std::optional<HyperConnectionStep> streams;
  NormStep norm;
};

// mla = absorbed: attention in latent space, between two projections of kv_b.
struct AbsorbedPlan {
  HeadProjectionStep query;
  SparseAttentionStep attention;
  HeadProjectionStep value;
};

struct LatentAttentionPlan {
  std::optional<LinearStep> qkv_a;  // q_a and kv_a in one product (joined.h), in the place of both
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

// The indexer of compressed entries: its keys are entries of their own.
struct EntryIndexerPlan {
  LinearStep q;         // q_latent -> index q
  LinearStep gate;      // x -> head gate
  CompressorStep keys;  // x -> index keys
  IndexerPrepareStep prepare;
  IndexSelectStep select;
};

// DeepSeek-V4: a window, and entries that stand for many positions.
struct WindowAttentionPlan {
  std::optional<LinearStep> qkv_a;  // q_a and kv in one product, in the place of both
  LinearStep q_a;
  NormStep q_a_norm;
  LinearStep q_b;
  QueryPrepareStep query;
  LinearStep kv;
  KvPrepareStep kv_prepare;
  std::optional<CompressorStep> compressor;  // none: the window alone
  std::optional<EntryIndexerPlan> indexer;   // none: every entry that is visible
  CompressedAttentionStep attention;
  HeadProjectionStep o_a;
  LinearStep o_b;
};

struct LayerPlan {
  SitePlan attention_site;
  std::optional<LatentAttentionPlan> attention;  // exactly one of these two
  std::optional<WindowAttentionPlan> window;
  SitePlan feed_forward_site;
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
  std::string sums;        // how the implementation sums, where that is its own
  bool has_kernel = true;  // in this build
  bool operator==(const Row&) const = default;
};

struct Bytes {
  int64_t viewed = 0;            // weights, where the checkpoint maps them
  int64_t prepared = 0;          // weights and tables in a layout of their own
  int64_t uploaded = 0;          // of a GPU: all weights, prepared or not, in its memory
  int64_t latent_cache = 0;      // latents, or windows and entries
  int64_t index_layers = 0;      // layers with an indexer: none other has index keys
  int64_t index_cache = 0;       // index keys and the scales of codes
  int64_t compressor_state = 0;  // what open windows hold
  int64_t activations = 0;
  int64_t requantized = 0;  // codes and scales made for rows that read other scales than the stored
  int64_t workspace = 0;    // the largest of any row; rows run one after another
  // Of the device's memory; a GPU leaves what is prepared with the host.
  int64_t owned() const {
    return (uploaded > 0 ? uploaded : prepared) + requantized + latent_cache + index_cache +
           compressor_state + activations + workspace;
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
  SitePlan final_site;
  LinearStep head;
  std::optional<LargestLogitsStep> largest;  // of logits that the host does not read
  rotary::Frequencies frequencies;
  rotary::Frequencies compressed_frequencies;  // of layers with compressed entries
  ActivationLayout activations;
  Caches caches;
  std::vector<Row> rows;
  Bytes bytes;
};

// Throws Error{kPlan} with every reason where every row refuses, or a demand is not met; Error{kRequest} for a
// context beyond the model's.
Plan make(const model::Model& model, const Device& device, const Options& options);

// Do references alone run?
inline bool runs_references(const Options& options) { return options.candidates != Candidates::kAll; }

// Throws Error{kPlan} if this build has no kernel for a row of the plan, or it was made for a GPU without one.
void require_kernels(const Plan& plan);

// Throws Error{kMemory} if the device has less available than the plan's owned() bytes.
void require_memory(const Plan& plan);

}  // namespace fulgurite::plan
