#include "fulgurite/execute/session.h"

#include <algorithm>

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
  CacheCutter(const plan::Plan& plan, int64_t layer, const Buffer& memory)
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
  std::byte* begin(const plan::CacheRegion& region) const { return memory_.data() + region.offset; }
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
  const Buffer& memory_;
};

// Every stream begins as the embedding.
void spread(const Activations& at, const Memory& memory, void* queue) {
  if (!at.streams) return;
  const int64_t count = at.streams.extent[1];
  const int64_t bytes = at.stream.extent[1] * at.stream.element_bytes();
  for (int64_t t = 0; t < at.tokens; ++t)
    for (int64_t s = 0; s < count; ++s)
      memory.copy(at.streams.data + (t * count + s) * bytes, at.stream.data + t * bytes, bytes, queue);
}

plan::Plan fitting(plan::Plan plan) {
  plan::require_kernels(plan);
  plan::require_memory(plan);
  return plan;
}

// A session that traces, or runs references, which the host does, keeps everything where both sides read it.
const Memory& memory_of(const plan::Plan& plan) {
  const Accelerator* const accelerator = plan.device.accelerator;
  if (accelerator == nullptr) return kHostMemory;
  const bool looked_into = plan.options.tracing == plan::Tracing::kOn ||
                           plan.options.candidates == plan::Candidates::kReferencesOnly;
  return looked_into ? *accelerator->shared : *accelerator->own;
}

// Those that the kernels read: a GPU's are copies.
plan::DeviceWeights weights_of(const plan::Plan& plan, const plan::PreparedWeights& prepared, void* stream) {
  if (plan.device.accelerator == nullptr) return {};
  return plan::upload(prepared, memory_of(plan), stream);
}

// Bytes that pass between host and GPU in one call: ids and places, or logits.
int64_t staging_bytes(const plan::Plan& plan) {
  if (plan.device.accelerator == nullptr) return 0;
  const int64_t token = static_cast<int64_t>(sizeof(TokenPlace) + sizeof(int32_t));
  return std::max(plan.options.chunk_tokens * token,
                  plan.activations.logit_rows * plan.config.vocabulary * int64_t{4});
}

}  // namespace

Session::Session(const model::Model& model, plan::Plan plan)
    : plan_(fitting(std::move(plan))),
      model_(&model),
      prepared_(plan::prepare(model, plan_)),
      workers_(plan_.device.make_workers == nullptr ? nullptr
                                                    : plan_.device.make_workers(plan_.device.threads)),
      stream_(plan_.device.accelerator),
      memory_(memory_of(plan_)),
      uploaded_(weights_of(plan_, prepared_, stream_.get())),
      caches_(memory_, plan_.caches.total()),
      arena_(memory_, plan_.bytes.activations),
      workspace_(memory_, plan_.bytes.workspace),
      staging_(staging_bytes(plan_)),
      counts_(plan::no_counts(plan_)),
      lane_{{plan_.device.threads,
             workers_.get(),
             {workspace_.data(), static_cast<size_t>(workspace_.size())},
             stream_.get(),
             memory_.host_reads},
            counts_},
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
  plan::prepare_again(model, plan_, prepared_);
  if (plan_.device.accelerator != nullptr) plan::upload_again(prepared_, stream_.get(), uploaded_);
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
  const bool staged = plan_.device.accelerator != nullptr;
  Activations at = cut(plan_, arena_.data(), plan_.options.chunk_tokens);
  const View<int32_t, 1> ids = at.ids;
  const View<TokenPlace, 1> places = at.places;
  if (staged) {
    at.places.data = reinterpret_cast<TokenPlace*>(staging_.bytes().data());
    at.ids.data = reinterpret_cast<int32_t*>(at.places.data + at.places.size());
  }
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
  if (staged) {
    memory_.write(places.data, at.places.data, t * static_cast<int64_t>(sizeof(TokenPlace)), stream_.get());
    memory_.write(ids.data, at.ids.data, t * static_cast<int64_t>(sizeof(int32_t)), stream_.get());
  }
  return t;
}

void Session::run_layers(const Activations& at, Tap* tap) {
  const model::Config& config = plan_.config;
  const plan::PreparedWeights& w = weights();
  plan_.embedding.run({at.ids, &w.embedding, at.stream}, at.tokens, lane_);
  spread(at, memory_, stream_.get());
  // Nothing precedes the first layer: its sum adds zeros.
  memory_.clear(at.block.data, at.tokens * config.hidden * at.block.element_bytes(), stream_.get());
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    const rotary::Table& rope = config.ratio(layer) == 0 ? w.rope : w.compressed_rope;
    run_layer({layer, plan_.layers[static_cast<size_t>(layer)], w.layers[static_cast<size_t>(layer)], rope,
               CacheCutter(plan_, layer, caches_).cut(), at, lane_, tap});
  }
  enter_block({plan_.final_site, w.final_norm, w.head_streams, config.layers - 1}, at, lane_, tap);
}

View<const float, 2> Session::run_head(std::span<const Chunk> chunks, const Activations& at, Tap* tap) {
  const bool all = plan_.options.logits == plan::LogitRows::kAll;
  const int64_t count = all ? at.tokens : static_cast<int64_t>(chunks.size());
  Tensor<2> inputs = at.normed;
  if (!all) {
    inputs = cut_logit_inputs(plan_, arena_.data(), count);
    const int64_t row_bytes = plan_.config.hidden * inputs.element_bytes();
    int64_t last = -1;
    for (int64_t i = 0; i < count; ++i) {
      last += static_cast<int64_t>(chunks[static_cast<size_t>(i)].ids.size());
      memory_.copy(rows(inputs, i, 1).data, rows(at.normed, last, 1).data, row_bytes, stream_.get());
    }
  }
  View<float, 2> logits = cut_logits(plan_, arena_.data(), count);
  plan_.head.run({inputs, &weights().head, logits}, count, lane_);
  if (!memory_.host_reads) {
    auto* const here = reinterpret_cast<float*>(staging_.bytes().data());
    memory_.read(here, logits.data, logits.size() * static_cast<int64_t>(sizeof(float)), stream_.get());
    logits.data = here;
  }
  if (tap != nullptr && all) tap->at(TapPoint::kLogits, model::kNoLayer, tap_tensor(Tensor<2>(logits)));
  return logits;
}

View<const float, 2> Session::forward(std::span<const Chunk> chunks, Tap* tap, plan::Conductor* conductor) {
  check(chunks);
  if ((tap != nullptr || conductor != nullptr) && !memory_.host_reads)
    fail(ErrorKind::kRequest, "a session on {} is looked into where its plan has Tracing::kOn",
         name(plan_.device.target));
  lane_.conductor = conductor;
  const Activations at = cut(plan_, arena_.data(), place_tokens(chunks));
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
