// plan::make: for each operation the first row of the catalog that takes its problem; every refusal is kept.

#include <fmt/ranges.h>

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/core/requantized.h"
#include "fulgurite/plan/bytes.h"
#include "fulgurite/plan/plan.h"
#include "fulgurite/plan/prepare.h"
#include "fulgurite/plan/requantization.h"

namespace fulgurite::plan {
namespace {

std::string shaped(const StoredMatrix& matrix) {
  return fmt::format("{} [{}, {}]", describe(format_of(matrix)), matrix.out, matrix.in);
}

std::string place(int64_t layer, const std::string& operation) {
  return layer == model::kNoLayer ? operation : fmt::format("layer {} {}", layer, operation);
}

// How a row is handed scales that are stored as `stored`, if it reads `read`.
std::string scales_text(const MatrixFormat& stored, const MatrixFormat& read) {
  if (read == stored) return "as stored";
  if (read.layout == ScaleLayout::kTiles) return "e8m0 in tiles of 128x4, the same values";
  if (read.layout == ScaleLayout::kRowMajor)
    return fmt::format("the tensor's in each block of {}x{}", read.block.rows, read.block.columns);
  return requantizes(stored, read) ? "requantized to powers of two, e8m0 packed in int32"
                                   : "e8m0 packed in int32, the same values";
}

// What plan::prepare makes of a weight that a row reads in another form than the stored.
int64_t bytes_made(const linear::Problem& stored, const MatrixFormat& read) {
  if (read == stored.weight) return 0;
  const int64_t codes = requantizes(stored.weight, read) ? product({stored.out, stored.in}) : 0;
  if (read.layout == ScaleLayout::kPacked)
    return codes + PackedScales::bytes(stored.out, stored.in, read.block);
  const auto blocks = [](int64_t extent, int64_t block) { return (extent + block - 1) / block; };
  const int64_t element = read.scale == ScaleFormat::kF32 ? 4 : 1;
  return codes +
         product({blocks(stored.out, read.block.rows), blocks(stored.in, read.block.columns), element});
}

class Planner {
 public:
  Planner(const model::Model& model, Plan& plan)
      : model_(model), c_(model.config), plan_(plan), setting_{plan.device.target, plan.numerics} {}

  void make() {
    plan_.embedding =
        choose(model::kNoLayer, "embedding", shaped(weights().embedding), catalog().embedding,
               embedding::Problem{setting_, c_.vocabulary, c_.hidden, format_of(weights().embedding)});
    for (int64_t layer = 0; layer < c_.layers; ++layer) plan_.layers.push_back(make_layer(layer));
    plan_.final_norm = choose_norm(model::kNoLayer, "norm final", c_.hidden, c_.norm_eps);
    plan_.head = choose_linear(model::kNoLayer, "head", weights().head, linear::Output::kF32);
  }

 private:
  const model::StoredWeights& weights() const { return model_.weights; }

  template <class Problem, class Args>
  Step<Problem, Args> choose(int64_t layer, const std::string& operation, const std::string& format,
                             Rows<Implementation<Problem, Args>> candidates, const Problem& problem) {
    Row row{layer, operation, "", format, 1, INT64_MAX, 0, {}, "", true};
    for (const Implementation<Problem, Args>* const candidate : candidates) {
      if (!is_candidate(operation, candidate->name, candidate->device)) continue;
      Support refusal = refused_unasked(operation, candidate->name, candidate->device);
      if (!refusal) refusal = candidate->supports(problem);
      if (refusal) {
        row.refused.push_back(fmt::format("{}: {}", candidate->name, refusal->reason));
        continue;
      }
      row.implementation = candidate->name;
      row.has_kernel = candidate->run != nullptr;
      row.workspace_bytes = candidate->workspace_bytes(problem, plan_.device.threads);
      plan_.bytes.workspace = std::max(plan_.bytes.workspace, row.workspace_bytes);
      plan_.rows.push_back(row);
      return {as_read(*candidate, problem), {{INT64_MAX, candidate, std::ssize(plan_.rows) - 1}}};
    }
    if (!row.refused.empty() || kind() == DeviceKind::kCpu)
      fail(ErrorKind::kPlan, "{}: no implementation takes it ({})", place(layer, operation),
           fmt::join(row.refused, "; "));
    row.implementation = kNoImplementation;
    row.has_kernel = false;
    plan_.rows.push_back(row);
    return {problem, {}};
  }

  DeviceKind kind() const { return setting_.target.kind; }

  // Rows of another kind of device are not worth a line, unless one is required.
  bool is_candidate(const std::string& operation, std::string_view name, DeviceKind device) const {
    return device == kind() || std::ranges::any_of(plan_.options.demands, [&](const Demand& demand) {
             return demand.kind == DemandKind::kRequire && demand.implementation == name &&
                    concerns(demand, operation);
           });
  }

  // What the request refuses, before the row's own rule is asked.
  Support refused_unasked(const std::string& operation, std::string_view name, DeviceKind device) const {
    if (device != kind())
      return Refusal{fmt::format("runs on {}, the target is {}", fulgurite::name(device),
                                 fulgurite::name(setting_.target))};
    for (const Demand& demand : plan_.options.demands) {
      if (!concerns(demand, operation)) continue;
      const bool named = demand.implementation == name;
      if (demand.kind == DemandKind::kForbid && named) return Refusal{"forbidden"};
      if (demand.kind == DemandKind::kRequire && !named)
        return Refusal{demand.implementation + " is required"};
    }
    if (plan_.options.candidates == Candidates::kReferencesOnly && name != "reference")
      return Refusal{"only references are asked for"};
    return std::nullopt;
  }

  // The problem with the weight in the form that the row reads.
  template <class Problem, class Args>
  static Problem as_read(const Implementation<Problem, Args>& row, Problem problem) {
    if constexpr (requires { problem.weight; })
      if (row.reads != nullptr) problem.weight = row.reads(problem);
    return problem;
  }

  NormStep choose_norm(int64_t layer, const std::string& operation, int64_t width, float eps) {
    return choose(layer, operation, fmt::format("f32 [{}]", width), catalog().norm,
                  norm::Problem{setting_, width, eps});
  }

  LinearStep choose_linear(int64_t layer, const std::string& name, const StoredMatrix& weight,
                           linear::Output output = linear::Output::kActivation) {
    const linear::Problem problem{setting_, weight.in, weight.out, format_of(weight), output, batch()};
    const LinearStep step =
        choose(layer, "linear " + name, reading_text(weight, problem), catalog().linear, problem);
    if (has_scales(problem.weight))
      plan_.rows.back().scales = scales_text(problem.weight, step.problem.weight);
    plan_.bytes.requantized += bytes_made(problem, step.problem.weight);
    return step;
  }

  static std::string reading_text(const StoredMatrix& weight, const linear::Problem& problem) {
    const bool rounds = !linear::quantizes(problem) && problem.weight.form != MatrixForm::kBF16 &&
                        linear::reading_of(problem) == WeightReading::kBf16;
    return shaped(weight) + (rounds ? ", read as bf16" : "");
  }

  LayerPlan make_layer(int64_t layer) {
    const model::StoredLayer& w = weights().layers[static_cast<size_t>(layer)];
    LayerPlan plan;
    plan.attention = make_attention(layer, w);
    plan.feed_forward_norm = choose_norm(layer, "norm feed_forward", c_.hidden, c_.norm_eps);
    if (!c_.dense(layer)) plan.router = make_router(layer, w);
    plan.experts = make_experts(layer, w);
    return plan;
  }

  AttentionPlan make_attention(int64_t layer, const model::StoredLayer& w) {
    AttentionPlan plan;
    plan.norm = choose_norm(layer, "norm attention", c_.hidden, c_.norm_eps);
    plan.q_a = choose_linear(layer, "q_a", w.q_a);
    plan.q_a_norm = choose_norm(layer, "norm q_a", c_.q_lora, c_.latent_norm_eps);
    plan.q_b = choose_linear(layer, "q_b", w.q_b);
    plan.q_rope =
        choose(layer, "rotary q", "interleaved", catalog().rotary,
               rotary::Problem{setting_, rotary::Layout::kInterleaved, c_.heads, c_.rope, context()});
    plan.kv_a = choose_linear(layer, "kv_a", w.kv_a);
    plan.latent = choose(
        layer, "latent_prepare",
        fmt::format("cache {} [{} + {}], {} bytes a row", value_name(plan_.latent_row.form), c_.kv_lora,
                    c_.rope, plan_.latent_row.bytes()),
        catalog().latent_prepare,
        latent_prepare::Problem{setting_, c_.kv_lora, c_.rope, c_.latent_norm_eps, sequences(), context()});
    if (c_.has_indexer(layer)) plan.indexer = make_indexer(layer, w.indexer);
    if (setting_.numerics.mla == Mla::kAbsorbed)
      plan.absorbed = make_absorbed(layer, w.kv_b);
    else
      plan.expanded = make_expanded(layer, w.kv_b);
    plan.o = choose_linear(layer, "o", w.o);
    return plan;
  }

  IndexerPlan make_indexer(int64_t layer, const model::StoredIndexer& w) {
    IndexerPlan plan;
    plan.q = choose_linear(layer, "index_q", w.q);
    const indexer_projection::Problem projection{
        setting_, c_.hidden, c_.index_dim, c_.index_heads, format_of(w.k), gate_format(w.gate), batch()};
    plan.projection = choose(layer, "indexer_projection", projection_text(w, projection),
                             catalog().indexer_projection, projection);
    const indexer_prepare::Problem prepare{
        setting_, c_.index_heads, c_.index_dim, c_.rope, rotary::Layout::kHalfSplit, sequences(), context()};
    const bool half_split = indexer_prepare::layout_in_force(prepare) == rotary::Layout::kHalfSplit;
    plan.prepare = choose(layer, "indexer_prepare",
                          fmt::format("{}; cache {} [{}]", half_split ? "half-split" : "interleaved",
                                      name(plan_.activations.index_dtype), c_.index_dim),
                          catalog().indexer_prepare, prepare);
    plan.select = choose(layer, "index_select", fmt::format("top {} of {}", selected(), context()),
                         catalog().index_select,
                         index_select::Problem{setting_, c_.index_heads, c_.index_dim, selected(),
                                               sequences(), context(), batch()});
    return plan;
  }

  // gate_weight = fp8: prepare() quantizes a weight that is not stored in codes in blocks of 128x128.
  MatrixFormat gate_format(const StoredMatrix& gate) const {
    if (!quantizes_gate(gate, setting_.numerics)) return format_of(gate);
    return {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
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
    return choose(layer, "head_projection " + name, shaped(kv_b), catalog().head_projection,
                  head_projection::Problem{setting_, direction, c_.heads, c_.nope + c_.value, first_row, rows,
                                           c_.kv_lora, format_of(kv_b), batch()});
  }

  AbsorbedPlan make_absorbed(int64_t layer, const StoredMatrix& kv_b) {
    AbsorbedPlan plan;
    plan.query =
        choose_head_projection(layer, "query", kv_b, head_projection::Direction::kFromRows, 0, c_.nope);
    plan.attention =
        choose(layer, "sparse_attention", fmt::format("{} heads, {} + {}", c_.heads, c_.kv_lora, c_.rope),
               catalog().sparse_attention,
               sparse_attention::Problem{setting_, c_.heads, c_.kv_lora, c_.rope, selected(),
                                         c_.softmax_scale(), sequences(), context(), batch()});
    plan.value =
        choose_head_projection(layer, "value", kv_b, head_projection::Direction::kToRows, c_.nope, c_.value);
    return plan;
  }

  ExpandedAttentionStep make_expanded(int64_t layer, const StoredMatrix& kv_b) {
    return choose(
        layer, "expanded_attention", shaped(kv_b), catalog().expanded_attention,
        expanded_attention::Problem{setting_, c_.heads, c_.nope, c_.rope, c_.value, c_.kv_lora, selected(),
                                    c_.softmax_scale(), format_of(kv_b), sequences(), context()});
  }

  RouterStep make_router(int64_t layer, const model::StoredLayer& w) {
    return choose(layer, "router", shaped(w.router), catalog().router,
                  router::Problem{setting_, c_.hidden, c_.experts, c_.expert_groups, c_.groups_kept,
                                  c_.experts_per_token, c_.routed_scale, format_of(w.router)});
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
                             plan_.options.chunk_tokens};
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
    return choose(layer, "experts", what, catalog().experts, problem);
  }

  int64_t batch() const { return plan_.options.chunk_tokens; }
  int64_t sequences() const { return plan_.options.sequences; }
  int64_t context() const { return plan_.options.context; }
  int64_t selected() const { return plan_.activations.selected_width; }

  const model::Model& model_;
  const model::Config& c_;
  Plan& plan_;
  const Setting setting_;
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
  for (const Demand& demand : plan.options.demands) {
    const bool met = std::ranges::any_of(plan.rows, [&](const Row& row) {
      return concerns(demand, row.operation) && row.implementation == demand.implementation;
    });
    if (demand.kind == DemandKind::kRequire && !met)
      fail(ErrorKind::kPlan, "{}: {} is required, the plan has no row of it for {}", demand.operation,
           demand.implementation, name(plan.device.target));
  }
}

rotary::Frequencies frequencies_of(const model::Config& config) {
  rotary::Frequencies frequencies{config.rope_base, config.rope, std::nullopt};
  if (config.yarn)
    frequencies.yarn = rotary::Yarn{config.yarn->factor, config.yarn->original_positions,
                                    config.yarn->beta_fast, config.yarn->beta_slow};
  return frequencies;
}

// activation_scale = checkpoint is a fact of config.json: scale_fmt "ue8m0" or plain fp32.
Numerics resolved(Numerics numerics, const model::Config& config) {
  if (numerics.activation_scale != ActivationScale::kCheckpoint) return numerics;
  const bool pow2 = config.quantization && config.quantization->activation_scale == ScaleRounding::kPow2;
  numerics.activation_scale = pow2 ? ActivationScale::kPow2 : ActivationScale::kFp32;
  return numerics;
}

// fp32 copies of vectors (exact), the rotary tables and what gate_weight quantizes: what plan::prepare
// allocates.
int64_t prepared_bytes(const model::Model& model, const Options& options) {
  int64_t elements = product({options.context, model.config.rope});
  for (int64_t i = 0; i < model.config.layers; ++i) {
    const StoredMatrix& gate = model.weights.layers[static_cast<size_t>(i)].indexer.gate;
    if (model.config.has_indexer(i) && quantizes_gate(gate, options.numerics))
      elements += quantized_floats(gate.out, gate.in);
  }
  for (const model::TensorName& tensor : model.names)
    if (tensor.required && tensor.form == model::Form::kVector) elements += (tensor.columns + 15) / 16 * 16;
  return product({elements, sizeof(float)}) + 2 * 64;
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
  plan.latent_row = {plan.numerics.latent_cache, model.config.kv_lora, model.config.rope};
  plan.frequencies = frequencies_of(model.config);
  plan.activations = make_activation_layout(model.config, plan.options);
  Planner(model, plan).make();
  require_demands(plan);
  const int64_t cache_rows = product({model.config.layers, plan.options.sequences, plan.options.context});
  plan.bytes.viewed = model.bound_bytes;
  plan.bytes.prepared = prepared_bytes(model, plan.options);
  plan.bytes.latent_cache = product({cache_rows, plan.latent_row.bytes()});
  const DType index_dtype = plan.activations.index_dtype;
  plan.bytes.index_keys =
      (product({cache_rows, model.config.index_dim, bits(index_dtype) / 8}) + 63) / 64 * 64;
  const bool codes = index_dtype == DType::kF8_E4M3;
  plan.bytes.index_cache = plan.bytes.index_keys + (codes ? product({cache_rows, sizeof(float)}) : 0);
  plan.bytes.activations = plan.activations.total;
  return plan;
}

void require_kernels(const Plan& plan) {
  const auto missing = [](const Row& row) { return !row.has_kernel; };
  const auto first = std::ranges::find_if(plan.rows, missing);
  if (first == plan.rows.end()) return;
  fail(ErrorKind::kPlan,
       "the plan for {} cannot run: this build has no kernel for {} of its {} rows (the first: {}, {})",
       name(plan.device.target), std::ranges::count_if(plan.rows, missing), plan.rows.size(),
       place(first->layer, first->operation), first->implementation);
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
