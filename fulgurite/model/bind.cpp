#include "fulgurite/model/bind.h"

#include <algorithm>

#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

StoredVector& vector_slot(StoredWeights& weights, const TensorName& want) {
  switch (want.role) {
    case Role::kFinalNorm:
      return weights.final_norm;
    case Role::kHeadStreamsBase:
      return weights.head_streams->base;
    case Role::kHeadStreamsScale:
      return weights.head_streams->scale;
    default:
      break;
  }
  StoredLayer& layer = weights.layers[static_cast<size_t>(want.layer)];
  switch (want.role) {
    case Role::kAttentionNorm:
      return layer.attention_norm;
    case Role::kFeedForwardNorm:
      return layer.feed_forward_norm;
    case Role::kQANorm:
      return layer.q_a_norm;
    case Role::kKvANorm:
      return layer.kv_a_norm;
    case Role::kIndexKNormWeight:
      return layer.indexer.k_norm_weight;
    case Role::kIndexKNormBias:
      return layer.indexer.k_norm_bias;
    case Role::kRouterBias:
      return layer.router_bias;
    case Role::kWindowKvNorm:
      return layer.window->kv_norm;
    case Role::kSink:
      return layer.window->sink;
    case Role::kCompressorNorm:
      return layer.window->compressor->norm;
    case Role::kIndexCompressorNorm:
      return layer.indexer.compressor->norm;
    case Role::kAttentionStreamsBase:
      return layer.attention_streams->base;
    case Role::kAttentionStreamsScale:
      return layer.attention_streams->scale;
    case Role::kFeedForwardStreamsBase:
      return layer.feed_forward_streams->base;
    case Role::kFeedForwardStreamsScale:
      return layer.feed_forward_streams->scale;
    default:
      FULGURITE_ASSERT(false, "{} is no vector", want.name);
  }
}

StoredMatrix& mlp_slot(StoredLayer& layer, const TensorName& want) {
  StoredMlp& mlp = want.expert == kNotRouted ? layer.shared : layer.experts[static_cast<size_t>(want.expert)];
  switch (want.role) {
    case Role::kMlpGate:
      return mlp.gate;
    case Role::kMlpUp:
      return mlp.up;
    case Role::kMlpDown:
      return mlp.down;
    default:
      FULGURITE_ASSERT(false, "{} is no matrix", want.name);
  }
}

StoredMatrix& window_slot(StoredLayer& layer, const TensorName& want) {
  switch (want.role) {
    case Role::kWindowKv:
      return layer.window->kv;
    case Role::kOA:
      return layer.window->o_a;
    case Role::kOB:
      return layer.window->o_b;
    case Role::kCompressorKv:
      return layer.window->compressor->kv;
    case Role::kCompressorGate:
      return layer.window->compressor->gate;
    case Role::kCompressorApe:
      return layer.window->compressor->ape;
    case Role::kIndexCompressorKv:
      return layer.indexer.compressor->kv;
    case Role::kIndexCompressorGate:
      return layer.indexer.compressor->gate;
    case Role::kIndexCompressorApe:
      return layer.indexer.compressor->ape;
    case Role::kAttentionStreamsFn:
      return layer.attention_streams->fn;
    case Role::kFeedForwardStreamsFn:
      return layer.feed_forward_streams->fn;
    default:
      return mlp_slot(layer, want);
  }
}

StoredMatrix& matrix_slot(StoredWeights& weights, const TensorName& want) {
  if (want.role == Role::kEmbedding) return weights.embedding;
  if (want.role == Role::kHead) return weights.head;
  if (want.role == Role::kHeadStreamsFn) return weights.head_streams->fn;
  StoredLayer& layer = weights.layers[static_cast<size_t>(want.layer)];
  switch (want.role) {
    case Role::kQA:
      return layer.q_a;
    case Role::kQB:
      return layer.q_b;
    case Role::kKvA:
      return layer.kv_a;
    case Role::kKvB:
      return layer.kv_b;
    case Role::kO:
      return layer.o;
    case Role::kIndexQ:
      return layer.indexer.q;
    case Role::kIndexK:
      return layer.indexer.k;
    case Role::kIndexGate:
      return layer.indexer.gate;
    case Role::kRouter:
      return layer.router;
    default:
      return window_slot(layer, want);
  }
}

// As many of everything as the configuration has, with nothing in it.
StoredWeights empty_weights(const Config& config) {
  StoredWeights weights;
  weights.layers.resize(static_cast<size_t>(config.layers));
  if (config.streams) weights.head_streams.emplace();
  for (int64_t i = 0; i < config.layers; ++i) {
    StoredLayer& layer = weights.layers[static_cast<size_t>(i)];
    if (!config.dense(i)) layer.experts.resize(static_cast<size_t>(config.experts));
    if (config.streams) {
      layer.attention_streams.emplace();
      layer.feed_forward_streams.emplace();
    }
    if (!config.window) continue;
    layer.window.emplace();
    if (config.ratio(i) != 0) layer.window->compressor.emplace();
    if (config.has_indexer(i)) layer.indexer.compressor.emplace();
  }
  return weights;
}

// Marks the tensors that the model knows; the others are unknown.
class Claims {
 public:
  explicit Claims(TensorList tensors) : tensors_(tensors), claimed_(tensors.size()) {}

  int64_t claim(const std::vector<const checkpoint::TensorView*>& parts) {
    int64_t bytes = 0;
    for (const checkpoint::TensorView* const part : parts) {
      claimed_[static_cast<size_t>(part - tensors_.data())] = true;
      bytes += static_cast<int64_t>(part->bytes.size());
    }
    return bytes;
  }

  void refuse_unknown(Family family) const {
    int64_t unknown = 0;
    std::string first;
    for (size_t i = 0; i < tensors_.size(); ++i)
      if (!claimed_[i] && unknown++ == 0)
        first = printable(tensors_[i].name) + ": " + checkpoint::describe(tensors_[i]);
    if (unknown > 0)
      fail(ErrorKind::kModel, "{}: no tensor of {} has this name ({} unknown in all)", first, name(family),
           unknown);
  }

 private:
  TensorList tensors_;
  std::vector<bool> claimed_;
};

void place_stack(const TensorName& want, const StoredMatrix& stack, StoredWeights& weights) {
  std::vector<StoredMlp>& experts = weights.layers[static_cast<size_t>(want.layer)].experts;
  const int64_t rows = stack.out / static_cast<int64_t>(experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t first = static_cast<int64_t>(e) * rows;
    if (want.role == Role::kExpertsDown) {
      experts[e].down = rows_of(stack, first, rows);
      continue;
    }
    experts[e].gate = rows_of(stack, first, rows / 2);
    experts[e].up = rows_of(stack, first + rows / 2, rows / 2);
  }
}

void place(const TensorName& want, const Config& config, const Bound& bound, StoredWeights& weights) {
  if (const auto* const vector = std::get_if<StoredVector>(&bound.as)) {
    vector_slot(weights, want) = *vector;
    return;
  }
  if (const auto* const table = std::get_if<StoredTable>(&bound.as)) {
    weights.layers[static_cast<size_t>(want.layer)].expert_table = *table;
    return;
  }
  const StoredMatrix& matrix = std::get<StoredMatrix>(bound.as);
  if (want.form == Form::kStack) return place_stack(want, matrix, weights);
  if (want.role != Role::kIndexFused) {
    matrix_slot(weights, want) = matrix;
    return;
  }
  StoredIndexer& indexer = weights.layers[static_cast<size_t>(want.layer)].indexer;
  indexer.k = rows_of(matrix, 0, config.index_dim);
  indexer.gate = rows_of(matrix, config.index_dim, config.index_heads);
}

// --- without a checkpoint ---

int64_t blocks(int64_t extent, int64_t block) { return (extent + block - 1) / block; }

MatrixFormat form_of(const Config& config, const TensorName& name) {
  constexpr MatrixFormat kPlain{MatrixForm::kBF16, {}, ScaleFormat::kF32};
  if (name.plain == DType::kF32) return {MatrixForm::kF32, {}, ScaleFormat::kF32};
  if (name.form != Form::kLinear || !config.quantization) return kPlain;
  const Quantization& quantization = *config.quantization;
  if (std::ranges::any_of(quantization.not_converted,
                          [&](const std::string& module) { return name.name.starts_with(module + "."); }))
    return kPlain;
  const bool routed = name.expert != kNotRouted;
  if (routed && quantization.experts == Fp4::kMxfp4) return {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0};
  if (routed && quantization.experts == Fp4::kNvfp4) return {MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3};
  // Model Optimizer's NVFP4 leaves what is no expert alone.
  if (quantization.experts == Fp4::kNvfp4 && quantization.block == BlockShape{1, kWhole}) return kPlain;
  return {MatrixForm::kE4M3Blocks, quantization.block, quantization.scales};
}

template <class T>
View<const T, 2> nothing(int64_t rows, int64_t columns) {
  return {nullptr, {rows, columns}};
}

StoredMatrix empty_matrix(const MatrixFormat& format, int64_t out, int64_t in) {
  const int64_t rows = has_scales(format) ? blocks(out, format.block.rows) : 0;
  const int64_t columns = has_scales(format) ? blocks(in, format.block.columns) : 0;
  if (format.form == MatrixForm::kMxfp4)
    return {Mxfp4{nothing<e2m1x2>(out, in / 2), nothing<e8m0>(rows, columns)}, out, in};
  if (format.form == MatrixForm::kNvfp4)
    return {Nvfp4{nothing<e2m1x2>(out, in / 2), nothing<e4m3>(rows, columns), {nullptr, {1}}}, out, in};
  if (format.form == MatrixForm::kE4M3Blocks && format.scale == ScaleFormat::kE8M0)
    return {BlockScaled{nothing<e4m3>(out, in), {}, format.block, format.scale, nothing<e8m0>(rows, columns)},
            out, in};
  if (format.form == MatrixForm::kE4M3Blocks)
    return {BlockScaled{nothing<e4m3>(out, in), nothing<float>(rows, columns), format.block}, out, in};
  if (format.form == MatrixForm::kF32) return {nothing<float>(out, in), out, in};
  return {nothing<bf16>(out, in), out, in};
}

StoredVector empty_vector(const TensorName& name) {
  if (name.plain == DType::kF32) return View<const float, 1>(nullptr, {name.columns});
  return View<const bf16, 1>(nullptr, {name.columns});
}

int64_t stored_bytes(const StoredMatrix& matrix) {
  const MatrixFormat format = format_of(matrix);
  const int64_t elements = matrix.out * matrix.in;
  if (!has_scales(format)) return elements * (format.form == MatrixForm::kF32 ? 4 : 2);
  const int64_t scales = blocks(matrix.out, format.block.rows) * blocks(matrix.in, format.block.columns);
  if (!is_fp4(format)) return elements + scales * (format.scale == ScaleFormat::kE8M0 ? 1 : 4);
  return elements / 2 + scales + (format.form == MatrixForm::kNvfp4 ? 4 : 0);
}

[[noreturn]] void refuse(const Finding& finding) { throw Error(ErrorKind::kModel, finding.message); }

}  // namespace

Model bind(const checkpoint::Checkpoint& checkpoint) {
  Model model;
  const TensorList tensors = checkpoint.tensors();
  model.config = with_stored_experts(
      parse_config(checkpoint.config_text(), checkpoint::printable_path(checkpoint.config_path())), tensors);
  Names names = names_in(tensors, model.config);
  if (!names.findings.empty()) refuse(names.findings.front());
  model.names = std::move(names.names);
  model.weights = empty_weights(model.config);
  Claims claims(tensors);
  for (const TensorName& name : model.names) {
    if (!name.required) {
      model.parts.push_back(parts_of(tensors, name));
      model.left_out_bytes += claims.claim(model.parts.back());
      continue;
    }
    std::variant<Bound, Finding> examined = examine(tensors, model.config, name);
    if (const auto* const finding = std::get_if<Finding>(&examined)) refuse(*finding);
    Bound& bound = std::get<Bound>(examined);
    place(name, model.config, bound, model.weights);
    model.parts.push_back(std::move(bound.parts));
    model.bound_bytes += claims.claim(model.parts.back());
  }
  claims.refuse_unknown(model.config.family);
  return model;
}

Model outline(Config config) {
  Model model;
  model.config = std::move(config);
  model.weights = empty_weights(model.config);
  for (TensorName& name : tensor_names(model.config)) {
    if (!name.required) continue;
    if (name.form == Form::kVector) {
      vector_slot(model.weights, name) = empty_vector(name);
      model.bound_bytes += name.columns * bits(name.plain) / 8;
    } else if (name.form == Form::kTable) {
      model.weights.layers[static_cast<size_t>(name.layer)].expert_table = {nullptr,
                                                                            {name.rows, name.columns}};
      model.bound_bytes += name.rows * name.columns * bits(name.plain) / 8;
    } else {
      const StoredMatrix matrix = empty_matrix(form_of(model.config, name), name.rows, name.columns);
      matrix_slot(model.weights, name) = matrix;
      model.bound_bytes += stored_bytes(matrix);
    }
    model.names.push_back(std::move(name));
  }
  return model;
}

}  // namespace fulgurite::model
