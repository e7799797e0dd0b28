#include "fulgurite/model/bind.h"

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

}  // namespace fulgurite::model
