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
  CacheCutter(const plan::Plan& plan, int64_t layer, const Buffer& memory, View<const int32_t, 2> table)
      : plan_(plan),
        at_(plan.caches.layers[static_cast<size_t>(layer)]),
        ratio_(plan.config.ratio(layer)),
        memory_(memory),
        pages_{plan.caches.page_tokens, table} {}

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

  // The first two extents of a cache with `rows` for a sequence.
  std::array<int64_t, 2> extent(int64_t rows) const {
    if (pages_.tokens > 0) return {plan_.caches.pages, pages_.tokens};
    return {sequences(), rows};
  }

  LatentRows latent() const {
    if (at_.latent.bytes == 0) return {};
    const LatentRow& row = plan_.caches.latent_row;
    const auto [parts, rows] = extent(plan_.options.context);
    return {row, {begin(at_.latent), {parts, rows, row.bytes()}}, pages_};
  }

  KvRows kv_rows(const plan::CacheRegion& region, int64_t rows) const {
    if (region.bytes == 0) return {};
    const KvRow& row = plan_.caches.kv_row;
    return {row, {begin(region), {sequences(), KvRow::blocks(rows), row.block_bytes()}}};
  }

  IndexKeys index() const {
    if (at_.index_keys.bytes == 0) return {};
    const int64_t dim = plan_.config.index_dim;
    const auto [parts, rows] = extent(at_.index_rows);
    IndexKeys keys;
    keys.pages = pages_;
    keys.keys.dtype = plan_.caches.index_dtype;
    keys.keys.data = begin(at_.index_keys);
    keys.keys.extent = {parts, rows, dim};
    keys.keys.stride = {rows * dim, dim, 1};
    if (plan_.caches.index_dtype != DType::kF8_E4M3) return keys;
    if (pages_.tokens == 0) {
      keys.scales = {reinterpret_cast<float*>(begin(at_.index_scales)), {parts, rows}};
      return keys;
    }
    const int64_t page_bytes = rows * (dim + static_cast<int64_t>(sizeof(float)));
    keys.keys.stride[0] = page_bytes;
    keys.scales = {reinterpret_cast<float*>(keys.keys.data + rows * dim),
                   {parts, rows},
                   {page_bytes / static_cast<int64_t>(sizeof(float)), 1}};
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
  const CachePages pages_;
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
  const bool looked_into = plan.options.tracing == plan::Tracing::kOn || plan::runs_references(plan.options);
  return looked_into ? *accelerator->shared : *accelerator->own;
}

// Those that the kernels read: a GPU's are copies.
plan::DeviceWeights weights_of(const plan::Plan& plan, const plan::PreparedWeights& prepared, void* stream) {
  if (plan.device.accelerator == nullptr) return {};
  return plan::upload(prepared, memory_of(plan), stream);
}

// A GPU's host side: a pass's inputs on their way there, then logits on theirs back, and the largest of them.
Buffer staging_of(const plan::Plan& plan, const Memory& memory) {
  if (memory.host_reads) return {};
  const int64_t logits = (plan.activations.logit_rows * plan.config.vocabulary * 4 + 255) / 256 * 256;
  const plan::ActivationLayout& at = plan.activations;
  return Buffer(*plan.device.accelerator->shared, at.inputs + logits + at.largest_end - at.largest_totals);
}

// Passes are padded with copies of their last token, which write again what it wrote. A compressor's state takes up every
// token, so that DeepSeek-V4's passes are not.
bool pads(const plan::Plan& plan) { return !plan.config.window; }

// Tokens from `first` on are copies of the one before.
void pad(const PassInputs& inputs, int64_t first, int64_t tokens) {
  for (int64_t t = first; t < tokens; ++t) {
    inputs.ids(t) = inputs.ids(first - 1);
    inputs.places(t) = inputs.places(first - 1);
  }
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
      staging_(staging_of(plan_, memory_)),
      counts_(plan::no_counts(plan_)),
      lane_{{plan_.device.threads,
             workers_.get(),
             {workspace_.data(), static_cast<size_t>(workspace_.size())},
             stream_.get(),
             memory_.host_reads},
            counts_},
      pages_(plan_.options.sequences, plan_.caches.table_pages, plan_.caches.page_tokens, plan_.caches.pages),
      lengths_(static_cast<size_t>(plan_.options.sequences), 0),
      chosen_(static_cast<size_t>(plan_.activations.logit_rows)),
      in_pass_(static_cast<size_t>(plan_.options.sequences), 0) {
  if (memory_.host_reads || plan_.options.passes == plan::Passes::kEager) return;
  record_passes();
  try_choices();
}

// The sequence's place in lengths_.
size_t Session::index_of(int32_t sequence) const {
  if (sequence < 0 || sequence >= plan_.options.sequences)
    fail(ErrorKind::kRequest, "sequence {}: expected one of 0 to {}", sequence, plan_.options.sequences - 1);
  return static_cast<size_t>(sequence);
}

int64_t Session::length(int32_t sequence) const { return lengths_[index_of(sequence)]; }

void Session::reset(int32_t sequence) {
  lengths_[index_of(sequence)] = 0;
  pages_.release(sequence);
}

void Session::update_weights(const model::Model& model) {
  model::require_interchangeable(*model_, model);
  model::require_expert_tables(model);
  plan::prepare_again(model, plan_, prepared_);
  if (plan_.device.accelerator != nullptr) plan::upload_again(prepared_, stream_.get(), uploaded_);
  model_ = &model;
  for (int32_t sequence = 0; sequence < plan_.options.sequences; ++sequence) reset(sequence);
}

void Session::reset_counts() { std::ranges::copy(plan::no_counts(plan_), counts_.begin()); }

void Session::check(std::span<const Chunk> chunks) {
  int64_t tokens = 0, pages = 0;
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
    pages += pages_.missing(chunk.sequence, lengths_[sequence] + count);
  }
  if (tokens < 1 || tokens > plan_.options.chunk_tokens)
    fail(ErrorKind::kRequest, "a pass takes 1 to {} tokens (planned), found {}", plan_.options.chunk_tokens,
         tokens);
  if (pages > pages_.free())
    fail(ErrorKind::kRequest,
         "{} pages of {} tokens are free (of {}), this pass needs {} more: reset a sequence", pages_.free(),
         plan_.caches.page_tokens, plan_.caches.pages, pages);
}

int64_t Session::place_tokens(std::span<const Chunk> chunks, const PassInputs& inputs) {
  int64_t t = 0, rows = 0;
  for (const Chunk& chunk : chunks) {
    int64_t& length = lengths_[static_cast<size_t>(chunk.sequence)];
    pages_.hold(chunk.sequence, length + std::ssize(chunk.ids));
    for (const int32_t id : chunk.ids) {
      inputs.ids(t) = id;
      inputs.places(t) = {chunk.sequence, static_cast<int32_t>(length)};
      length += 1;
      t += 1;
    }
    if (plan_.options.logits == plan::LogitRows::kLast)
      inputs.logit_tokens(rows++) = static_cast<int32_t>(t - 1);
  }
  for (; rows < inputs.logit_tokens.size(); ++rows) inputs.logit_tokens(rows) = 0;
  std::ranges::copy(pages_.entries(), inputs.page_table.data);
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
               CacheCutter(plan_, layer, caches_, at.page_table).cut(), at, lane_, tap});
  }
  enter_block({plan_.final_site, w.final_norm, w.head_streams, config.layers - 1}, at, lane_, tap);
}

// The first `count` rows of logits; of all tokens, or of logit_tokens.
View<float, 2> Session::run_head(const Activations& at, int64_t count) {
  Tensor<2> inputs = at.normed;
  if (plan_.options.logits == plan::LogitRows::kLast) {
    inputs = cut_logit_inputs(plan_, arena_.data(), count);
    memory_.gather(inputs.data, at.normed.data, cut_inputs(plan_, arena_.data()).logit_tokens.data, count,
                   plan_.config.hidden * inputs.element_bytes(), stream_.get());
  }
  const View<float, 2> logits = cut_logits(plan_, arena_.data(), count);
  plan_.head.run({inputs, &weights().head, logits}, count, lane_);
  return logits;
}

void Session::run_pass(int64_t tokens, int64_t logit_rows) {
  const Activations at = cut(plan_, arena_.data(), tokens);
  run_layers(at, nullptr);
  run_head(at, logit_rows);
}

void Session::record_passes() {
  const Accelerator& accelerator = *plan_.device.accelerator;
  for (const int64_t tokens : recorded_tokens(plan_.options)) {
    RecordedPass& pass = recorded_.emplace_back();
    pass.tokens = tokens;
    if (accelerator.begin_recording == nullptr) continue;
    reset_counts();
    accelerator.begin_recording(stream_.get());
    run_pass(tokens, std::min(tokens, plan_.activations.logit_rows));
    pass.recording = {accelerator, accelerator.end_recording(stream_.get())};
    pass.counts.assign(counts_.begin(), counts_.end());
  }
  reset_counts();
}

// The shortest that takes so many tokens; none, where each pass is launched in turn.
const RecordedPass* Session::recorded_for(int64_t tokens) const {
  for (const RecordedPass& pass : recorded_)
    if (pass.tokens == tokens || (pass.tokens > tokens && pads(plan_))) return &pass;
  return nullptr;
}

void Session::run(const RecordedPass& pass) {
  if (!pass.recording) return run_pass(pass.tokens, std::min(pass.tokens, plan_.activations.logit_rows));
  pass.recording.replay(stream_.get());
  for (size_t row = 0; row < counts_.size(); ++row) {
    counts_[row].calls += pass.counts[row].calls;
    counts_[row].tokens += pass.counts[row].tokens;
  }
}

View<const float, 2> Session::forward(std::span<const Chunk> chunks, Tap* tap, plan::Conductor* conductor) {
  if (!memory_.host_reads && (tap != nullptr || conductor != nullptr))
    fail(ErrorKind::kRequest, "a session on {} is looked into where its plan has Tracing::kOn",
         name(plan_.device.target));
  check(chunks);
  return attempt(chunks, [&] {
    return memory_.host_reads ? forward_here(chunks, tap, conductor) : forward_there(chunks);
  });
}

void Session::give_up(std::span<const Chunk> chunks) {
  if (!memory_.host_reads) {  // what is under way still reads the staged inputs
    try {
      plan_.device.accelerator->wait(stream_.get());
    } catch (const Error&) {  // the pass's own error is told
    }
  }
  for (const Chunk& chunk : chunks) reset(chunk.sequence);
}

View<const float, 2> Session::forward_here(std::span<const Chunk> chunks, Tap* tap,
                                           plan::Conductor* conductor) {
  lane_.conductor = conductor;
  const Activations at = cut(plan_, arena_.data(), place_tokens(chunks, cut_inputs(plan_, arena_.data())));
  if (tap != nullptr) tap->begin({at.places.data, static_cast<size_t>(at.tokens)});
  run_layers(at, tap);
  const bool all = plan_.options.logits == plan::LogitRows::kAll;
  const View<float, 2> logits = run_head(at, all ? at.tokens : std::ssize(chunks));
  if (tap != nullptr && all) tap->at(TapPoint::kLogits, model::kNoLayer, tap_tensor(Tensor<2>(logits)));
  return logits;
}

View<const float, 2> Session::forward_there(std::span<const Chunk> chunks) {
  return read(pass_there(chunks));
}

// One copy there, and the pass; nothing waits.
View<float, 2> Session::pass_there(std::span<const Chunk> chunks) {
  const PassInputs inputs = cut_inputs(plan_, staging_.data());
  const int64_t tokens = place_tokens(chunks, inputs);
  const RecordedPass* const recorded = recorded_for(tokens);
  if (recorded != nullptr) pad(inputs, tokens, recorded->tokens);
  memory_.copy(arena_.data(), staging_.data(), plan_.activations.inputs, stream_.get());
  const int64_t rows = plan_.options.logits == plan::LogitRows::kAll ? tokens : std::ssize(chunks);
  if (recorded != nullptr)
    run(*recorded);
  else
    run_pass(tokens, rows);
  return cut_logits(plan_, arena_.data(), rows);
}

// One copy back, which waits.
View<const float, 2> Session::read(View<float, 2> logits) {
  auto* const here = reinterpret_cast<float*>(staging_.data() + plan_.activations.inputs);
  memory_.read(here, logits.data, logits.size() * static_cast<int64_t>(sizeof(float)), stream_.get());
  logits.data = here;
  return logits;
}

View<const float, 2> Session::forward(int32_t sequence, std::span<const int32_t> ids, Tap* tap,
                                      plan::Conductor* conductor) {
  const Chunk chunk{sequence, ids};
  return forward({&chunk, 1}, tap, conductor);
}

}  // namespace fulgurite::execute
