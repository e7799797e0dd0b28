#include "fulgurite/model/bind.h"

#include <unordered_set>

#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

using checkpoint::TensorView;

bool is_plain(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF32; }

std::string shape_text(const TensorName& want) {
  return want.form == Form::kVector ? fmt::format("[{}]", want.columns)
                                    : fmt::format("[{}, {}]", want.rows, want.columns);
}

bool has_shape(const TensorView& tensor, const TensorName& want) {
  if (want.form == Form::kVector) return tensor.shape == std::vector<int64_t>{want.columns};
  return tensor.shape == std::vector<int64_t>{want.rows, want.columns};
}

template <class T>
View<const T, 2> matrix_view(const TensorView& tensor) {
  return {reinterpret_cast<const T*>(tensor.bytes.data()), {tensor.shape[0], tensor.shape[1]}};
}

// Tensors of one checkpoint, proven one by one; remembers which were asked for.
class Binder {
 public:
  Binder(const checkpoint::Checkpoint& checkpoint, const Config& config)
      : checkpoint_(checkpoint), config_(config) {}

  void bind(const TensorName& want, StoredWeights& weights) {
    if (want.form == Form::kVector)
      vector_slot(weights, want) = vector(want);
    else
      matrix_slot(weights, want) = matrix(want);
  }

  void leave_out(const TensorName& tensor) {
    left_out_bytes_ += claim_if_there(tensor.name) + claim_if_there(scale_name(tensor));
  }

  void refuse_unknown() const {
    int64_t unknown = 0;
    std::string first;
    for (const TensorView& tensor : checkpoint_.tensors()) {
      if (claimed_.contains(tensor.name)) continue;
      if (unknown++ == 0) first = printable(tensor.name) + ": " + checkpoint::describe(tensor);
    }
    if (unknown > 0)
      fail(ErrorKind::kModel, "{}: no tensor of {} has this name ({} unknown in all)", first,
           name(config_.family), unknown);
  }

  int64_t bound_bytes() const { return bound_bytes_; }
  int64_t left_out_bytes() const { return left_out_bytes_; }

 private:
  int64_t claim_if_there(const std::string& name) {
    const TensorView* const tensor = checkpoint_.find(name);
    if (tensor == nullptr) return 0;
    claimed_.insert(tensor->name);
    return static_cast<int64_t>(tensor->bytes.size());
  }

  const TensorView& claim(const std::string& name, std::string_view expected, std::string_view shape) {
    const TensorView* const tensor = checkpoint_.find(name);
    if (tensor == nullptr)
      fail(ErrorKind::kModel, "{}: expected {} {}, the checkpoint has no such tensor", name, expected, shape);
    bound_bytes_ += claim_if_there(name);
    return *tensor;
  }

  [[noreturn]] void wrong(const TensorName& want, std::string_view expected, const TensorView& tensor) const {
    fail(ErrorKind::kModel, "{}: expected {} {}, file has {}", want.name, expected, shape_text(want),
         checkpoint::describe(tensor));
  }

  const TensorView& proven(const TensorName& want, bool (*dtype_fits)(DType), std::string_view expected) {
    const TensorView& tensor = claim(want.name, expected, shape_text(want));
    if (!dtype_fits(tensor.dtype) || !has_shape(tensor, want)) wrong(want, expected, tensor);
    if (!checkpoint::aligned(tensor))
      fail(ErrorKind::kModel,
           "{}: {} begins at a byte that no element of its type may begin at; rewrite the file", want.name,
           checkpoint::describe(tensor));
    return tensor;
  }

  StoredVector vector(const TensorName& want) {
    const TensorView& tensor = proven(want, is_plain, "BF16 or F32");
    if (tensor.dtype == DType::kF32)
      return View<const float, 1>(reinterpret_cast<const float*>(tensor.bytes.data()), {want.columns});
    return View<const bf16, 1>(reinterpret_cast<const bf16*>(tensor.bytes.data()), {want.columns});
  }

  StoredMatrix matrix(const TensorName& want) {
    if (want.form == Form::kLinear && config_.quantization) return block_scaled(want);
    const char* const expected =
        want.form == Form::kLinear ? "BF16 or F32 (no quantization_config in config.json)" : "BF16 or F32";
    const TensorView& tensor = proven(want, is_plain, expected);
    if (tensor.dtype == DType::kF32) return {matrix_view<float>(tensor), want.rows, want.columns};
    return {matrix_view<bf16>(tensor), want.rows, want.columns};
  }

  StoredMatrix block_scaled(const TensorName& want) {
    const auto is_e4m3 = [](DType dtype) { return dtype == DType::kF8_E4M3; };
    const TensorView& data = proven(want, is_e4m3, "F8_E4M3 (quantization_config in config.json)");
    const BlockShape block = config_.quantization->block;
    TensorName scale_want = want;
    scale_want.name = scale_name(want);
    scale_want.rows = (want.rows + block.rows - 1) / block.rows;
    scale_want.columns = (want.columns + block.columns - 1) / block.columns;
    const TensorView& scale = proven(
        scale_want, [](DType dtype) { return dtype == DType::kF32; }, "F32");
    return {BlockScaled{matrix_view<e4m3>(data), matrix_view<float>(scale), block, ScaleFormat::kF32},
            want.rows, want.columns};
  }

  static StoredVector& vector_slot(StoredWeights& weights, const TensorName& want) {
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

  static StoredMatrix& matrix_slot(StoredWeights& weights, const TensorName& want) {
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

  static StoredMatrix& mlp_slot(StoredLayer& layer, const TensorName& want) {
    StoredMlp& mlp =
        want.expert == kNotRouted ? layer.shared : layer.experts[static_cast<size_t>(want.expert)];
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

  const checkpoint::Checkpoint& checkpoint_;
  const Config& config_;
  std::unordered_set<std::string_view> claimed_;
  int64_t bound_bytes_ = 0;
  int64_t left_out_bytes_ = 0;
};

}  // namespace

Model bind(const checkpoint::Checkpoint& checkpoint) {
  Model model;
  model.config = parse_config(checkpoint.config_text(), checkpoint::printable_path(checkpoint.config_path()));
  model.names = tensor_names(model.config);
  model.weights.layers.resize(static_cast<size_t>(model.config.layers));
  for (int64_t i = model.config.dense_layers; i < model.config.layers; ++i)
    model.weights.layers[static_cast<size_t>(i)].experts.resize(static_cast<size_t>(model.config.experts));
  Binder binder(checkpoint, model.config);
  for (const TensorName& tensor : model.names) {
    if (tensor.required)
      binder.bind(tensor, model.weights);
    else
      binder.leave_out(tensor);
  }
  binder.refuse_unknown();
  model.bound_bytes = binder.bound_bytes();
  model.left_out_bytes = binder.left_out_bytes();
  return model;
}

}  // namespace fulgurite::model
