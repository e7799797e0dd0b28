// plan::make: for each operation the first row of the catalog that takes its problem; every refusal is kept.

#include <algorithm>

#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/chooser.h"
#include "fulgurite/plan/prepare.h"
#include "fulgurite/plan/window_planner.h"

namespace fulgurite::plan {
namespace {

class Planner {
 public:
  Planner(const model::Model& model, Plan& plan)
      : model_(model), c_(model.config), plan_(plan), chooser_(plan) {}

  void make() {
    plan_.embedding = chooser_.choose(
        model::kNoLayer, "embedding", shaped(weights().embedding), catalog().embedding,
        embedding::Problem{setting_, c_.vocabulary, c_.hidden, format_of(weights().embedding)});
    for (int64_t layer = 0; layer < c_.layers; ++layer) plan_.layers.push_back(make_layer(layer));
    plan_.final_site = make_site(model::kNoLayer, "final", hyper_connection::Kind::kHead);
    plan_.head = chooser_.choose_linear(model::kNoLayer, "head", weights().head, linear::Output::kF32);
    if (const ActivationLayout& at = plan_.activations; at.largest_width > 0)
      plan_.largest =
          chooser_.choose(model::kNoLayer, "largest_logits",
                          fmt::format("{} of {}", at.largest_width, c_.vocabulary), catalog().largest_logits,
                          largest_logits::Problem{setting_, c_.vocabulary, at.largest_width, at.logit_rows});
  }

 private:
  const model::StoredWeights& weights() const { return model_.weights; }

  LayerPlan make_layer(int64_t layer) {
    const model::StoredLayer& w = weights().layers[static_cast<size_t>(layer)];
    LayerPlan plan;
    plan.attention_site = make_site(layer, "attention", hyper_connection::Kind::kLayer);
    if (w.window)
      plan.window = plan_window_attention(chooser_, c_, plan_.caches, layer, w);
    else
      plan.attention = make_attention(layer, w);
    plan.feed_forward_site = make_site(layer, "feed_forward", hyper_connection::Kind::kLayer);
    if (!c_.dense(layer)) plan.router = make_router(layer, w);
    plan.experts = make_experts(layer, w);
    return plan;
  }

  SitePlan make_site(int64_t layer, const std::string& name, hyper_connection::Kind kind) {
    SitePlan plan;
    if (c_.streams)
      plan.streams = chooser_.choose(
          layer, "hyper_connection " + name, fmt::format("{} streams of {}", c_.streams->count, c_.hidden),
          catalog().hyper_connection,
          hyper_connection::Problem{setting_, c_.hidden, c_.streams->count, kind,
                                    static_cast<int>(c_.streams->sinkhorn_iterations), c_.streams->eps,
                                    c_.norm_eps, batch()});
    plan.norm = chooser_.choose_norm(layer, "norm " + name, c_.hidden, c_.norm_eps);
    return plan;
  }

  LatentAttentionPlan make_attention(int64_t layer, const model::StoredLayer& w) {
    const LatentRow& row = plan_.caches.latent_row;
    LatentAttentionPlan plan;
    plan.qkv_a = chooser_.choose_joined(layer, {"q_a", w.q_a}, {"kv_a", w.kv_a});
    if (!plan.qkv_a) plan.q_a = chooser_.choose_linear(layer, "q_a", w.q_a);
    plan.q_a_norm = chooser_.choose_norm(layer, "norm q_a", c_.q_lora, c_.latent_norm_eps);
    plan.q_b = chooser_.choose_linear(layer, "q_b", w.q_b);
    plan.q_rope = chooser_.choose(
        layer, "rotary q", "interleaved", catalog().rotary,
        rotary::Problem{setting_, rotary::Layout::kInterleaved, c_.heads, c_.rope, context()});
    if (!plan.qkv_a) plan.kv_a = chooser_.choose_linear(layer, "kv_a", w.kv_a);
    plan.latent = chooser_.choose(layer, "latent_prepare",
                                  fmt::format("cache {} [{} + {}], {} bytes a row", value_name(row.form),
                                              c_.kv_lora, c_.rope, row.bytes()),
                                  catalog().latent_prepare,
                                  latent_prepare::Problem{setting_, c_.kv_lora, c_.rope, c_.latent_norm_eps,
                                                          sequences(), context(), page_tokens()});
    if (c_.has_indexer(layer)) plan.indexer = make_indexer(layer, w.indexer);
    if (setting_.numerics.mla == Mla::kAbsorbed)
      plan.absorbed = make_absorbed(layer, w.kv_b);
    else
      plan.expanded = make_expanded(layer, w.kv_b);
    plan.o = chooser_.choose_linear(layer, "o", w.o);
    return plan;
  }

  IndexerPlan make_indexer(int64_t layer, const model::StoredIndexer& w) {
    IndexerPlan plan;
    plan.q = chooser_.choose_linear(layer, "index_q", w.q);
    const indexer_projection::Problem projection{setting_,       c_.hidden,
                                                 c_.index_dim,   c_.index_heads,
                                                 format_of(w.k), gate_format(w.gate, setting_.numerics),
                                                 batch()};
    plan.projection = chooser_.choose(layer, "indexer_projection", projection_text(w, projection),
                                      catalog().indexer_projection, projection);
    indexer_prepare::Problem prepare{setting_,     c_.index_heads, c_.index_dim, c_.rope,
                                     index_rope(), sequences(),    context()};
    prepare.page_tokens = page_tokens();
    const bool half_split = indexer_prepare::layout_in_force(prepare) == rotary::Layout::kHalfSplit;
    plan.prepare = chooser_.choose(layer, "indexer_prepare",
                                   fmt::format("{}; cache {} [{}]", half_split ? "half-split" : "interleaved",
                                               name(plan_.activations.index_dtype), c_.index_dim),
                                   catalog().indexer_prepare, prepare);
    index_select::Problem select{setting_,    c_.index_heads, c_.index_dim, selected(),
                                 sequences(), context(),      batch()};
    select.page_tokens = page_tokens();
    plan.select = chooser_.choose(layer, "index_select", fmt::format("top {} of {}", selected(), context()),
                                  catalog().index_select, select);
    return plan;
  }

  rotary::Layout index_rope() const {
    return c_.index_rope_interleaved ? rotary::Layout::kInterleaved : rotary::Layout::kHalfSplit;
  }

  // Both halves of the weight as they are read, and whether one pass may meet them.
  std::string projection_text(const model::StoredIndexer& w,
                              const indexer_projection::Problem& problem) const {
    const bool one_pass = !indexer_projection::one_pass(problem);
    return fmt::format("wk {}, gate {}; {}", reading_text(w.k, indexer_projection::key_linear(problem)),
                       quantizes_gate(w.gate, setting_.numerics)
                           ? shaped(w.gate) + " quantized to " + describe(problem.gate_weight)
                           : reading_text(w.gate, indexer_projection::gate_linear(problem)),
                       one_pass ? "both bf16: one pass" : "not both bf16: two linears");
  }

  HeadProjectionStep choose_head_projection(int64_t layer, const std::string& name, const StoredMatrix& kv_b,
                                            head_projection::Direction direction, int64_t first_row,
                                            int64_t rows) {
    return chooser_.choose(layer, "head_projection " + name, shaped(kv_b), catalog().head_projection,
                           head_projection::Problem{setting_, direction, c_.heads, c_.nope + c_.value,
                                                    first_row, rows, c_.kv_lora, format_of(kv_b), batch()});
  }

  AbsorbedPlan make_absorbed(int64_t layer, const StoredMatrix& kv_b) {
    AbsorbedPlan plan;
    plan.query =
        choose_head_projection(layer, "query", kv_b, head_projection::Direction::kFromRows, 0, c_.nope);
    plan.attention = chooser_.choose(
        layer, "sparse_attention", fmt::format("{} heads, {} + {}", c_.heads, c_.kv_lora, c_.rope),
        catalog().sparse_attention,
        sparse_attention::Problem{setting_, c_.heads, c_.kv_lora, c_.rope, selected(), c_.softmax_scale(),
                                  sequences(), context(), batch(), page_tokens()});
    plan.value =
        choose_head_projection(layer, "value", kv_b, head_projection::Direction::kToRows, c_.nope, c_.value);
    // One copy serves both: what reads any form reads that of the other.
    MatrixFormat &one = plan.query.problem.weight, &other = plan.value.problem.weight;
    if (one != other) one = other = one.form == MatrixForm::kBF16 ? one : other;
    return plan;
  }

  ExpandedAttentionStep make_expanded(int64_t layer, const StoredMatrix& kv_b) {
    return chooser_.choose(layer, "expanded_attention", shaped(kv_b), catalog().expanded_attention,
                           expanded_attention::Problem{
                               setting_, c_.heads, c_.nope, c_.rope, c_.value, c_.kv_lora, selected(),
                               c_.softmax_scale(), format_of(kv_b), sequences(), context(), page_tokens()});
  }

  RouterStep make_router(int64_t layer, const model::StoredLayer& w) {
    return chooser_.choose(layer, "router",
                           shaped(w.router) + (c_.hashed(layer) ? ", chosen by token id" : ""),
                           catalog().router,
                           router::Problem{setting_, c_.hidden, c_.experts, c_.expert_groups, c_.groups_kept,
                                           c_.experts_per_token, c_.routed_scale, format_of(w.router),
                                           scoring(), c_.hashed(layer), c_.vocabulary});
  }

  router::Scoring scoring() const {
    return c_.scoring == model::Scoring::kSigmoid ? router::Scoring::kSigmoid
                                                  : router::Scoring::kSqrtSoftplus;
  }

  // The experts of a layer run as one operation, in one format; the shared one may have another.
  void require_one_format(int64_t layer, const std::string& what, const model::StoredMlp& mlp,
                          const MatrixFormat& expected) {
    for (const StoredMatrix* const matrix : {&mlp.gate, &mlp.up, &mlp.down})
      if (format_of(*matrix) != expected)
        fail(ErrorKind::kModel, "{} {}: expected gate, up and down as {} (as the first one's gate), found {}",
             place(layer, "experts"), what, describe(expected), describe(format_of(*matrix)));
  }

  ExpertsStep make_experts(int64_t layer, const model::StoredLayer& w) {
    require_one_format(layer, c_.dense(layer) ? "dense" : "shared", w.shared, format_of(w.shared.gate));
    for (size_t e = 0; e < w.experts.size(); ++e)
      require_one_format(layer, fmt::format("expert {}", e), w.experts[e], format_of(w.experts.front().gate));
    experts::Problem problem{setting_,
                             c_.hidden,
                             0,
                             0,
                             0,
                             w.shared.gate.out,
                             {},
                             format_of(w.shared.gate),
                             plan_.options.chunk_tokens,
                             c_.swiglu_limit,
                             c_.weight_before_down()};
    if (!c_.dense(layer)) {
      problem.experts = c_.experts;
      problem.experts_per_token = c_.experts_per_token;
      problem.width = c_.expert_width;
      problem.weight = format_of(w.experts.front().gate);
    }
    const std::string what =
        c_.dense(layer)
            ? fmt::format("dense {}, width {}", describe(problem.shared_weight), problem.shared_width)
            : fmt::format("{} of {} + shared, {}, width {}", c_.experts_per_token, c_.experts,
                          describe(problem.weight), problem.width);
    return chooser_.choose(layer, "experts", what, catalog().experts, problem);
  }

  int64_t batch() const { return chooser_.batch(); }
  int64_t page_tokens() const { return plan_.caches.page_tokens; }
  int64_t sequences() const { return chooser_.sequences(); }
  int64_t context() const { return chooser_.context(); }
  int64_t selected() const { return plan_.activations.selected_width; }

  const model::Model& model_;
  const model::Config& c_;
  Plan& plan_;
  Chooser chooser_;
  const Setting& setting_ = chooser_.setting();
};

void check_request(const model::Config& config, const Options& options) {
  if (options.context < 1 || options.context > config.max_positions)
    fail(ErrorKind::kRequest, "context: expected 1 to {} positions (max_position_embeddings), asked for {}",
         config.max_positions, options.context);
  if (options.sequences < 1 || options.sequences > (1 << 20))
    fail(ErrorKind::kRequest, "batch: expected 1 to {} sequences, asked for {}", 1 << 20, options.sequences);
  if (options.chunk_tokens < 1 || options.chunk_tokens > (1 << 20))
    fail(ErrorKind::kRequest, "chunk: expected 1 to {} tokens, asked for {}", 1 << 20, options.chunk_tokens);
}

// What is required of an operation that the plan does not have cannot be met.
void require_demands(const Plan& plan) {
  if (plan.options.candidates == Candidates::kReferencesOfRows) return;  // its rows are called references
  for (const Demand& demand : plan.options.demands) {
    const bool met = std::ranges::any_of(plan.rows, [&](const Row& row) {
      return concerns(demand, row.operation) && row.implementation == demand.implementation;
    });
    if (demand.kind == DemandKind::kRequire && !met)
      fail(ErrorKind::kPlan, "{}: {} is required, the plan has no row of it for {}", demand.operation,
           demand.implementation, name(plan.device.target));
  }
}

std::optional<rotary::Yarn> yarn_of(const model::Config& config) {
  if (!config.yarn) return std::nullopt;
  return rotary::Yarn{config.yarn->factor, config.yarn->original_positions, config.yarn->beta_fast,
                      config.yarn->beta_slow};
}

// Of the layers that see a window alone, YaRN is not asked.
rotary::Frequencies frequencies_of(const model::Config& config) {
  return {config.rope_base, config.rope, config.window ? std::nullopt : yarn_of(config)};
}

rotary::Frequencies compressed_frequencies_of(const model::Config& config) {
  if (!config.window) return frequencies_of(config);
  return {config.window->compressed_rope_base, config.rope, yarn_of(config)};
}

// activation_scale = checkpoint is a fact of config.json: scale_fmt "ue8m0" or plain fp32. index_quant = family: fp4 where index
// keys stand for several positions.
Numerics resolved(const Numerics& numerics, const model::Config& config) {
  const bool pow2 = config.quantization && config.quantization->activation_scale == ScaleRounding::kPow2;
  return numerics.resolved(pow2 ? ActivationScale::kPow2 : ActivationScale::kFp32,
                           config.window ? IndexQuant::kFp4 : IndexQuant::kFp8);
}

// GPUs keep latents and index keys in pages; DeepSeek-V4's window is a ring, and its entries lie together.
bool keeps_pages(const Plan& plan) {
  return plan.device.target.kind == DeviceKind::kCuda &&
         plan.options.candidates != Candidates::kReferencesOnly && !plan.config.window;
}

// Logits that are in a GPU's own memory, the last of each chunk.
bool chooses_there(const Plan& plan) {
  const Options& options = plan.options;
  return plan.device.target.kind == DeviceKind::kCuda && options.candidates == Candidates::kAll &&
         options.tracing == Tracing::kOff && options.logits == LogitRows::kLast;
}

}  // namespace

Plan make(const model::Model& model, const Device& device, const Options& options) {
  Plan plan;
  plan.device = device;
  plan.options = options;
  plan.config = model.config;
  if (plan.options.context == 0) plan.options.context = model.config.max_positions;
  check_request(model.config, plan.options);
  plan.numerics = resolved(plan.options.numerics, model.config);
  plan.frequencies = frequencies_of(model.config);
  plan.compressed_frequencies = compressed_frequencies_of(model.config);
  plan.caches = make_caches(model.config, plan.options, plan.numerics, keeps_pages(plan));
  plan.activations = make_activation_layout(model.config, plan.options, plan.caches, chooses_there(plan));
  Planner(model, plan).make();
  require_demands(plan);
  plan.bytes.viewed = model.bound_bytes;
  const PreparedBytes weights = prepared_bytes(model, plan);
  plan.bytes.prepared = weights.prepared;
  if (device.target.kind == DeviceKind::kCuda) plan.bytes.uploaded = weights.uploaded;
  plan.bytes.latent_cache = plan.caches.latent;
  plan.bytes.index_cache = plan.caches.index;
  plan.bytes.index_layers = std::ranges::count_if(
      plan.caches.layers, [](const LayerCaches& layer) { return layer.index_keys.bytes > 0; });
  plan.bytes.compressor_state = plan.caches.state;
  plan.bytes.activations = plan.activations.total;
  return plan;
}

void require_kernels(const Plan& plan) {
  const auto missing = [](const Row& row) { return !row.has_kernel; };
  const auto first = std::ranges::find_if(plan.rows, missing);
  if (first != plan.rows.end())
    fail(ErrorKind::kPlan,
         "the plan for {} cannot run: this build has no kernel for {} of its {} rows (the first: {}, {})",
         name(plan.device.target), std::ranges::count_if(plan.rows, missing), plan.rows.size(),
         place(first->layer, first->operation), first->implementation);
  if (plan.device.target.kind == DeviceKind::kCuda && plan.device.accelerator == nullptr)
    fail(ErrorKind::kPlan, "the plan for {} cannot run: it was made without a device",
         name(plan.device.target));
}

void require_memory(const Plan& plan) {
  const Bytes& bytes = plan.bytes;
  if (bytes.owned() <= plan.device.available_bytes) return;
  fail(ErrorKind::kMemory,
       "context {} for {} sequence(s) needs {} (latent cache {}, index cache {}, activations {}, workspace "
       "{}, prepared {}); "
       "available: {}",
       plan.options.context, plan.options.sequences, human_bytes(bytes.owned()),
       human_bytes(bytes.latent_cache), human_bytes(bytes.index_cache), human_bytes(bytes.activations),
       human_bytes(bytes.workspace), human_bytes(bytes.prepared), human_bytes(plan.device.available_bytes));
}

}  // namespace fulgurite::plan
