#include "fulgurite/execute/session.h"

#include <algorithm>
#include <cstring>

#include "fulgurite/core/error.h"
#include "fulgurite/execute/decoder_layer.h"
#include "fulgurite/execute/site.h"
#include "fulgurite/model/expert_table.h"
#include "fulgurite/model/interchangeable.h"

namespace fulgurite::execute {
namespace {

// This layer's parts of the buffer of all caches.
class CacheCutter {
 public:
  CacheCutter(const plan::Plan& plan, int64_t layer, const HostBuffer& memory)
      : plan_(plan),
        at_(plan.caches.layers[static_cast<size_t>(layer)]),
        ratio_(plan.config.ratio(layer)),
        memory_(memory) {}

  LayerCaches cut() const {
    return {latent(),
            kv_rows(at_.window, plan_.caches.ring),
            kv_rows(at_.entries, at_.entry_rows),
            index(),
            state(at_.state, plan_.config.nope + plan_.config.rope),
            state(at_.index_state, plan_.config.index_dim)};
  }

 private:
  std::byte* begin(const plan::CacheRegion& region) const { return memory_.bytes().data() + region.offset; }
  int64_t sequences() const { return plan_.options.sequences; }

  LatentRows latent() const {
    if (at_.latent.bytes == 0) return {};
    const LatentRow& row = plan_.caches.latent_row;
    return {row, {begin(at_.latent), {sequences(), plan_.options.context, row.bytes()}}};
  }

  KvRows kv_rows(const plan::CacheRegion& region, int64_t rows) const {
    if (region.bytes == 0) return {};
    const KvRow& row = plan_.caches.kv_row;
    return {row, {begin(region), {sequences(), KvRow::blocks(rows), row.block_bytes()}}};
  }

  IndexKeys index() const {
    if (at_.index_keys.bytes == 0) return {};
    const int64_t rows = at_.index_rows, dim = plan_.config.index_dim;
    IndexKeys keys;
    keys.keys.dtype = plan_.caches.index_dtype;
    keys.keys.data = begin(at_.index_keys);
    keys.keys.extent = {sequences(), rows, dim};
    keys.keys.stride = {rows * dim, dim, 1};
    if (at_.index_scales.bytes > 0)
      keys.scales = {reinterpret_cast<float*>(begin(at_.index_scales)), {sequences(), rows}};
    return keys;
  }

  View<float, 4> state(const plan::CacheRegion& region, int64_t dim) const {
    if (region.bytes == 0) return {};
    compressor::Problem problem;
    problem.ratio = ratio_;
    problem.dim = dim;
    return {reinterpret_cast<float*>(begin(region)),
            {sequences(), compressor::state_rows(problem), 2, compressor::width(problem)}};
  }

  const plan::Plan& plan_;
  const plan::LayerCaches& at_;
  const int64_t ratio_;
  const HostBuffer& memory_;
};

// Every stream begins as the embedding.
void spread(const Activations& at) {
  if (!at.streams) return;
  const int64_t count = at.streams.extent[1];
  const size_t bytes = static_cast<size_t>(at.stream.extent[1] * at.stream.element_bytes());
  for (int64_t t = 0; t < at.tokens; ++t)
    for (int64_t s = 0; s < count; ++s)
      std::memcpy(at.streams.data + (t * count + s) * static_cast<int64_t>(bytes),
                  at.stream.data + t * static_cast<int64_t>(bytes), bytes);
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
      caches_(plan_.caches.total()),
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
  model::require_expert_tables(model);
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
  spread(at);
  // Nothing precedes the first layer: its sum adds zeros.
  std::memset(at.block.data, 0, static_cast<size_t>(at.tokens * config.hidden * bits(at.block.dtype) / 8));
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const rotary::Table& rope = config.ratio(layer) == 0 ? weights_.rope : weights_.compressed_rope;
    run_layer({layer, plan_.layers[static_cast<size_t>(layer)], weights_.layers[static_cast<size_t>(layer)],
               rope, CacheCutter(plan_, layer, caches_).cut(), at, lane_, tap});
  }
  enter_block({plan_.final_site, weights_.final_norm, weights_.head_streams, config.layers - 1}, at, lane_,
              tap);
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
  if (tap != nullptr && all) tap->at(TapPoint::kLogits, model::kNoLayer, tap_tensor(Tensor<2>(logits)));
  return logits;
}

View<const float, 2> Session::forward(std::span<const Chunk> chunks, Tap* tap, plan::Conductor* conductor) {
  check(chunks);
  lane_.conductor = conductor;
  const Activations at = cut(plan_, arena_, place_tokens(chunks));
  if (tap != nullptr) tap->begin({at.places.data, static_cast<size_t>(at.tokens)});
  run_layers(at, tap);
  return run_head(chunks, at, tap);
}

View<const float, 2> Session::forward(int32_t sequence, std::span<const int32_t> ids, Tap* tap,
                                      plan::Conductor* conductor) {
  const Chunk chunk{sequence, ids};
  return forward({&chunk, 1}, tap, conductor);
}

}  // namespace fulgurite::execute
