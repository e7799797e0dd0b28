#include "fulgurite/execute/session.h"

#include <algorithm>
#include <cstring>

#include "fulgurite/core/error.h"
#include "fulgurite/execute/decoder_layer.h"
#include "fulgurite/model/interchangeable.h"

namespace fulgurite::execute {
namespace {

// One layer of a cache [layers, sequences, context, row_bytes].
View<std::byte, 3> cache_layer(const plan::Plan& plan, int64_t layer, std::byte* cache, int64_t row_bytes) {
  const std::array<int64_t, 3> extent{plan.options.sequences, plan.options.context, row_bytes};
  return {cache + layer * extent[0] * extent[1] * extent[2], extent};
}

LatentRows latent_layer(const plan::Plan& plan, int64_t layer, const HostBuffer& cache) {
  return {plan.latent_row, cache_layer(plan, layer, cache.bytes().data(), plan.latent_row.bytes())};
}

// None of a layer without an indexer.
IndexKeys index_layer(const plan::Plan& plan, const plan::AttentionPlan& attention, const HostBuffer& cache) {
  if (!attention.indexer) return {};
  const int64_t layer = attention.indexer->cache_layer;
  const int64_t dim = plan.config.index_dim;
  IndexKeys keys;
  keys.keys.dtype = plan.activations.index_dtype;
  keys.keys.data = cache_layer(plan, layer, cache.bytes().data(), dim * keys.keys.element_bytes()).data;
  keys.keys.extent = {plan.options.sequences, plan.options.context, dim};
  keys.keys.stride = {plan.options.context * dim, dim, 1};
  if (keys.keys.dtype != DType::kF8_E4M3) return keys;
  std::byte* const scales = cache.bytes().data() + plan.bytes.index_keys;
  keys.scales = {reinterpret_cast<float*>(cache_layer(plan, layer, scales, sizeof(float)).data),
                 {plan.options.sequences, plan.options.context}};
  return keys;
}

plan::Plan fitting(plan::Plan plan) {
  plan::require_kernels(plan);
  plan::require_memory(plan);
  return plan;
}

}  // namespace

Session::Session(const model::Model& model, plan::Plan plan)
    : plan_(fitting(std::move(plan))),
      model_(&model),
      weights_(plan::prepare(model, plan_)),
      latent_cache_(plan_.bytes.latent_cache),
      index_cache_(plan_.bytes.index_cache),
      arena_(plan_.bytes.activations),
      workspace_(plan_.bytes.workspace),
      workers_(plan_.device.make_workers == nullptr ? nullptr
                                                    : plan_.device.make_workers(plan_.device.threads)),
      counts_(plan::no_counts(plan_)),
      lane_{{plan_.device.threads, workers_.get(), workspace_.bytes()}, counts_},
      lengths_(static_cast<size_t>(plan_.options.sequences), 0),
      in_pass_(static_cast<size_t>(plan_.options.sequences), 0) {}

// The sequence's place in lengths_.
size_t Session::index_of(int32_t sequence) const {
  if (sequence < 0 || sequence >= plan_.options.sequences)
    fail(ErrorKind::kRequest, "sequence {}: expected one of 0 to {}", sequence, plan_.options.sequences - 1);
  return static_cast<size_t>(sequence);
}

int64_t Session::length(int32_t sequence) const { return lengths_[index_of(sequence)]; }

void Session::reset(int32_t sequence) { lengths_[index_of(sequence)] = 0; }

void Session::update_weights(const model::Model& model) {
  model::require_interchangeable(*model_, model);
  plan::prepare_again(model, plan_, weights_);
  model_ = &model;
  std::ranges::fill(lengths_, int64_t{0});
}

void Session::reset_counts() { std::ranges::copy(plan::no_counts(plan_), counts_.begin()); }

void Session::check(std::span<const Chunk> chunks) {
  int64_t tokens = 0;
  std::ranges::fill(in_pass_, uint8_t{0});
  for (const Chunk& chunk : chunks) {
    const int64_t count = static_cast<int64_t>(chunk.ids.size());
    const size_t sequence = index_of(chunk.sequence);
    if (in_pass_[sequence]++ != 0)
      fail(ErrorKind::kRequest, "sequence {}: stands in two chunks of one pass", sequence);
    if (count == 0)
      fail(ErrorKind::kRequest, "sequence {}: expected at least one token, found none", sequence);
    if (lengths_[sequence] + count > plan_.options.context)
      fail(ErrorKind::kRequest, "sequence {}: {} positions and {} tokens more exceed the context of {}",
           sequence, lengths_[sequence], count, plan_.options.context);
    for (const int32_t id : chunk.ids)
      if (id < 0 || id >= plan_.config.vocabulary)
        fail(ErrorKind::kRequest, "sequence {}: token id {} is outside the vocabulary of {}", sequence, id,
             plan_.config.vocabulary);
    tokens += count;
  }
  if (tokens < 1 || tokens > plan_.options.chunk_tokens)
    fail(ErrorKind::kRequest, "a pass takes 1 to {} tokens (planned), found {}", plan_.options.chunk_tokens,
         tokens);
}

int64_t Session::place_tokens(std::span<const Chunk> chunks) {
  const Activations at = cut(plan_, arena_, plan_.options.chunk_tokens);
  int64_t t = 0;
  for (const Chunk& chunk : chunks) {
    int64_t& length = lengths_[static_cast<size_t>(chunk.sequence)];
    for (const int32_t id : chunk.ids) {
      at.ids(t) = id;
      at.places(t) = {chunk.sequence, static_cast<int32_t>(length)};
      length += 1;
      t += 1;
    }
  }
  return t;
}

void Session::run_layers(const Activations& at, Tap* tap) {
  const model::Config& config = plan_.config;
  plan_.embedding.run({at.ids, &weights_.embedding, at.stream}, at.tokens, lane_);
  // Nothing precedes the first layer: its sum adds zeros.
  std::memset(at.block.data, 0, static_cast<size_t>(at.tokens * config.hidden * bits(at.block.dtype) / 8));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const plan::LayerPlan& plan = plan_.layers[static_cast<size_t>(layer)];
    const plan::PreparedLayer& weights = weights_.layers[static_cast<size_t>(layer)];
    add_and_norm(plan.attention.norm, weights.attention_norm, layer - 1, at, lane_, tap);
    if (layer > 0 && tap != nullptr) show(*tap, TapPoint::kHidden, layer - 1, at.stream);
    run_layer({layer, plan, weights, weights_.rope, latent_layer(plan_, layer, latent_cache_),
               index_layer(plan_, plan.attention, index_cache_), at, lane_, tap});
  }
  add_and_norm(plan_.final_norm, weights_.final_norm, config.layers - 1, at, lane_, tap);
  if (tap != nullptr) show(*tap, TapPoint::kHidden, config.layers - 1, at.stream);
}

View<const float, 2> Session::run_head(std::span<const Chunk> chunks, const Activations& at, Tap* tap) {
  const bool all = plan_.options.logits == plan::LogitRows::kAll;
  const int64_t count = all ? at.tokens : static_cast<int64_t>(chunks.size());
  Tensor<2> inputs = at.normed;
  if (!all) {
    inputs = cut_logit_inputs(plan_, arena_, count);
    const size_t row_bytes = static_cast<size_t>(plan_.config.hidden * bits(inputs.dtype) / 8);
    int64_t last = -1;
    for (int64_t i = 0; i < count; ++i) {
      last += static_cast<int64_t>(chunks[static_cast<size_t>(i)].ids.size());
      std::memcpy(rows(inputs, i, 1).data, rows(at.normed, last, 1).data, row_bytes);
    }
  }
  const View<float, 2> logits = cut_logits(plan_, arena_, count);
  plan_.head.run({inputs, &weights_.head, logits}, count, lane_);
  if (tap != nullptr && all) show(*tap, TapPoint::kLogits, model::kNoLayer, logits);
  return logits;
}

View<const float, 2> Session::forward(std::span<const Chunk> chunks, Tap* tap) {
  check(chunks);
  const Activations at = cut(plan_, arena_, place_tokens(chunks));
  if (tap != nullptr) tap->begin({at.places.data, static_cast<size_t>(at.tokens)});
  run_layers(at, tap);
  return run_head(chunks, at, tap);
}

View<const float, 2> Session::forward(int32_t sequence, std::span<const int32_t> ids, Tap* tap) {
  const Chunk chunk{sequence, ids};
  return forward({&chunk, 1}, tap);
}

}  // namespace fulgurite::execute
