#include "fulgurite/model/bind.h"

#include <algorithm>

#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

StoredVector& vector_slot(StoredWeights& weights, const TensorName& want) {
  if (want.role == Role::kFinalNorm) return weights.final_norm;
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

StoredMatrix& matrix_slot(StoredWeights& weights, const TensorName& want) {
  if (want.role == Role::kEmbedding) return weights.embedding;
  if (want.role == Role::kHead) return weights.head;
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
      return mlp_slot(layer, want);
  }
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

void place(const TensorName& want, const Config& config, const Bound& bound, StoredWeights& weights) {
  if (const auto* const vector = std::get_if<StoredVector>(&bound.as)) {
    vector_slot(weights, want) = *vector;
    return;
  }
  const StoredMatrix& matrix = std::get<StoredMatrix>(bound.as);
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
  return {MatrixForm::kE4M3Blocks, quantization.block, ScaleFormat::kF32};
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
  if (format.form == MatrixForm::kE4M3Blocks)
    return {BlockScaled{nothing<e4m3>(out, in), nothing<float>(rows, columns), format.block}, out, in};
  return {nothing<bf16>(out, in), out, in};
}

int64_t stored_bytes(const StoredMatrix& matrix) {
  const MatrixFormat format = format_of(matrix);
  const int64_t elements = matrix.out * matrix.in;
  if (!has_scales(format)) return elements * 2;
  const int64_t scales = blocks(matrix.out, format.block.rows) * blocks(matrix.in, format.block.columns);
  if (!is_fp4(format)) return elements + scales * static_cast<int64_t>(sizeof(float));
  return elements / 2 + scales + (format.form == MatrixForm::kNvfp4 ? 4 : 0);
}

[[noreturn]] void refuse(const Finding& finding) { throw Error(ErrorKind::kModel, finding.message); }

}  // namespace

Model bind(const checkpoint::Checkpoint& checkpoint) {
  Model model;
  const TensorList tensors = checkpoint.tensors();
  model.config = parse_config(checkpoint.config_text(), checkpoint::printable_path(checkpoint.config_path()));
  Names names = names_in(tensors, model.config);
  if (!names.findings.empty()) refuse(names.findings.front());
  model.names = std::move(names.names);
  model.weights.layers.resize(static_cast<size_t>(model.config.layers));
  for (int64_t i = model.config.dense_layers; i < model.config.layers; ++i)
    model.weights.layers[static_cast<size_t>(i)].experts.resize(static_cast<size_t>(model.config.experts));
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
  model.weights.layers.resize(static_cast<size_t>(model.config.layers));
  for (int64_t i = model.config.dense_layers; i < model.config.layers; ++i)
    model.weights.layers[static_cast<size_t>(i)].experts.resize(static_cast<size_t>(model.config.experts));
  for (TensorName& name : tensor_names(model.config)) {
    if (!name.required) continue;
    if (name.form == Form::kVector) {
      vector_slot(model.weights, name) = View<const float, 1>(nullptr, {name.columns});
      model.bound_bytes += name.columns * static_cast<int64_t>(sizeof(float));
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
