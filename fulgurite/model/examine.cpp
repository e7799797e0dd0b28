#include "fulgurite/model/examine.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "fulgurite/checkpoint/checkpoint.h"
#include "fulgurite/core/error.h"

namespace fulgurite::model {
namespace {

using checkpoint::TensorView;
using Shape = std::vector<int64_t>;

bool is_plain(DType dtype) { return dtype == DType::kBF16 || dtype == DType::kF32; }

bool is_fp4(DType dtype) { return dtype == DType::kI8 || dtype == DType::kU8 || dtype == DType::kF4; }

int64_t blocks(int64_t extent, int64_t block) { return (extent + block - 1) / block; }

template <class T>
View<const T, 2> view(const TensorView& tensor, int64_t rows, int64_t columns) {
  return {reinterpret_cast<const T*>(tensor.bytes.data()), {rows, columns}};
}

// The tensors of one weight, proven one by one. What is wrong leaves as a thrown Finding and is caught by
// examine().
class Examiner {
 public:
  Examiner(TensorList tensors, const Config& config, const TensorName& want)
      : tensors_(tensors), config_(config), want_(want), names_(part_names(want)) {}

  Bound run() {
    find_parts();
    const TensorView& weight = require_weight();
    Bound bound{form_of(weight), {&weight}};
    for (const TensorView* const part : {scale_, global_, input_})
      if (part != nullptr) bound.parts.push_back(part);
    return bound;
  }

 private:
  template <class... Parts>
  [[noreturn]] static void refuse(Rule rule, const std::string& subject, fmt::format_string<Parts...> format,
                                  Parts&&... parts) {
    throw Finding{rule, subject,
                  fmt::format("{}: {}", subject, fmt::format(format, std::forward<Parts>(parts)...))};
  }

  decltype(Bound::as) form_of(const TensorView& weight) const {
    if (want_.form == Form::kVector) return vector(weight);
    if (want_.form == Form::kTable) return table(weight);
    return matrix(weight);
  }

  bool may_be_quantized() const { return want_.form == Form::kLinear || want_.form == Form::kGate; }

  // --- what there is, and what was expected ---

  void find_parts() {
    weight_ = checkpoint::find(tensors_, want_.name);
    if (names_.global.empty()) return;
    for (const std::string& name : names_.scales) {
      const TensorView* const scale = checkpoint::find(tensors_, name);
      if (scale == nullptr) continue;
      if (scale_ != nullptr)
        refuse(Rule::kDuplicateTensor, scale->name, "scales of the weight stand in {} already", scale_->name);
      scale_ = scale;
    }
    global_ = checkpoint::find(tensors_, names_.global);
    input_ = checkpoint::find(tensors_, names_.input);
  }

  std::string expected() const {
    const std::string shape = fmt::format("[{}]", fmt::join(shape_of(want_.columns), ", "));
    if (want_.form == Form::kTable) return "I64 " + shape;
    if (!may_be_quantized()) return "BF16 or F32 " + shape;
    if (!config_.quantization) return "BF16 or F32 (no quantization_config in config.json) " + shape;
    if (want_.expert != kNotRouted && config_.quantization->experts != Fp4::kNone)
      return "fp4 codes with scales, BF16 or F32 " + shape;
    return "F8_E4M3 with scales, BF16 or F32 " + shape;
  }

  const TensorView& require_weight() const {
    if (weight_ != nullptr) return *weight_;
    for (const TensorView* const part : {scale_, global_, input_})
      if (part != nullptr)
        refuse(Rule::kScaleWithoutWeight, part->name, "the checkpoint has no {} that it could scale",
               want_.name);
    refuse(Rule::kMissingTensor, want_.name, "expected {}, the checkpoint has no such tensor", expected());
  }

  [[noreturn]] void wrong(Rule rule, const TensorView& tensor) const {
    refuse(rule, tensor.name, "expected {}, file has {}", expected(), checkpoint::describe(tensor));
  }

  Shape shape_of(int64_t columns) const {
    if (want_.form == Form::kVector) return {columns};
    if (want_.form == Form::kStack) return {config_.experts, want_.rows / config_.experts, columns};
    return {want_.rows, columns};
  }

  void require_shape(const TensorView& weight, int64_t columns) const {
    const Shape shape = shape_of(columns);
    if (weight.shape == shape) return;
    const bool transposed = Shape(weight.shape.rbegin(), weight.shape.rend()) == shape;
    wrong(transposed ? Rule::kTransposedTensor : Rule::kTensorShape, weight);
  }

  static void require_aligned(const TensorView& tensor) {
    if (!checkpoint::aligned(tensor))
      refuse(Rule::kMisalignedTensor, tensor.name,
             "{} begins at a byte that no element of its type may begin at; rewrite the file",
             checkpoint::describe(tensor));
  }

  // --- the forms ---

  StoredVector vector(const TensorView& weight) const {
    refuse_scales(weight);
    if (!is_plain(weight.dtype)) wrong(Rule::kTensorType, weight);
    require_shape(weight, want_.columns);
    require_aligned(weight);
    if (weight.dtype == DType::kF32)
      return View<const float, 1>(reinterpret_cast<const float*>(weight.bytes.data()), {want_.columns});
    return View<const bf16, 1>(reinterpret_cast<const bf16*>(weight.bytes.data()), {want_.columns});
  }

  StoredTable table(const TensorView& weight) const {
    if (weight.dtype != DType::kI64) wrong(Rule::kTensorType, weight);
    require_shape(weight, want_.columns);
    require_aligned(weight);
    return view<int64_t>(weight, want_.rows, want_.columns);
  }

  StoredMatrix matrix(const TensorView& weight) const {
    if (is_plain(weight.dtype)) return {plain(weight), want_.rows, want_.columns};
    if (!may_be_quantized()) wrong(Rule::kTensorType, weight);
    if (weight.dtype == DType::kF8_E4M3) return {e4m3_blocks(weight), want_.rows, want_.columns};
    if (is_fp4(weight.dtype)) return {fp4(weight), want_.rows, want_.columns};
    wrong(Rule::kTensorType, weight);
  }

  MatrixData plain(const TensorView& weight) const {
    refuse_scales(weight);
    require_shape(weight, want_.columns);
    require_aligned(weight);
    if (weight.dtype == DType::kF32) return view<float>(weight, want_.rows, want_.columns);
    return view<bf16>(weight, want_.rows, want_.columns);
  }

  void refuse_scales(const TensorView& weight) const {
    for (const TensorView* const part : {scale_, global_, input_})
      if (part != nullptr)
        refuse(Rule::kScaleWithoutWeight, part->name, "{} is stored as {}, which has no scales", weight.name,
               checkpoint::describe(weight));
  }

  const TensorView& require_scale(const TensorView& weight) const {
    if (scale_ != nullptr) return *scale_;
    refuse(Rule::kWeightWithoutScale, weight.name,
           "{} needs scales, the checkpoint has none of {}, {} and {}", checkpoint::describe(weight),
           names_.scales[0], names_.scales[1], names_.scales[2]);
  }

  MatrixData e4m3_blocks(const TensorView& weight) const {
    if (!config_.quantization) wrong(Rule::kConfigContradiction, weight);
    if (want_.expert != kNotRouted && config_.quantization->experts != Fp4::kNone)
      wrong(Rule::kConfigContradiction, weight);
    require_shape(weight, want_.columns);
    const TensorView& scale = require_scale(weight);
    refuse_global();
    BlockScaled matrix{
        view<e4m3>(weight, want_.rows, want_.columns), {}, block_of(scale), ScaleFormat::kF32, {}};
    const int64_t rows = blocks(want_.rows, matrix.block.rows);
    const int64_t columns = blocks(want_.columns, matrix.block.columns);
    require_scale_shape(scale, "F32 or F8_E8M0", rows, columns);
    require_aligned(scale);
    if (want_.part == Role::kIndexFused && matrix.block.rows != kWhole &&
        config_.index_dim % matrix.block.rows != 0)
      refuse(Rule::kScaleShape, scale.name,
             "a block of {} rows holds rows of wk, the first {}, and of weights_proj", matrix.block.rows,
             config_.index_dim);
    if (scale.dtype == DType::kF32) {
      matrix.scale = view<float>(scale, rows, columns);
    } else if (scale.dtype == DType::kF8_E8M0) {
      matrix.format = ScaleFormat::kE8M0;
      matrix.exponents = view<e8m0>(scale, rows, columns);
    } else {
      refuse(Rule::kTensorType, scale.name, "expected F32 or F8_E8M0 [{}, {}], file has {}", rows, columns,
             checkpoint::describe(scale));
    }
    return matrix;
  }

  // As config.json says. Where it names no blocks: a scale an output channel, or a single one for the tensor.
  BlockShape block_of(const TensorView& scale) const {
    const BlockShape block = config_.quantization->block;
    const bool single = std::ranges::all_of(scale.shape, [](int64_t extent) { return extent == 1; });
    if (block == BlockShape{1, kWhole} && single && want_.rows > 1) return {kWhole, kWhole};
    return block;
  }

  // [rows, columns]; a scale an output channel may be written [rows] too, one for the tensor [] or [1].
  void require_scale_shape(const TensorView& scale, std::string_view types, int64_t rows,
                           int64_t columns) const {
    if (scale.shape == Shape{rows, columns}) return;
    const bool no_blocks = config_.quantization->block == BlockShape{1, kWhole};
    if (no_blocks && columns == 1 && (scale.shape == Shape{rows} || (rows == 1 && scale.shape.empty())))
      return;
    refuse(Rule::kScaleShape, scale.name, "expected {} [{}, {}], file has {}", types, rows, columns,
           checkpoint::describe(scale));
  }

  void refuse_global() const {
    for (const TensorView* const part : {global_, input_})
      if (part != nullptr)
        refuse(Rule::kScaleWithoutWeight, part->name, "only NVFP4 has it, {} is stored as {}", weight_->name,
               checkpoint::describe(*weight_));
  }

  MatrixData fp4(const TensorView& weight) const {
    const Fp4 form = config_.quantization ? config_.quantization->experts : Fp4::kNone;
    const int64_t group = form == Fp4::kNvfp4 ? 16 : 32;
    if (form == Fp4::kNone) wrong(Rule::kConfigContradiction, weight);
    if (want_.columns % group != 0) wrong(Rule::kTensorType, weight);
    require_shape(weight, weight.dtype == DType::kF4 ? want_.columns : want_.columns / 2);
    const TensorView& scale = require_scale(weight);
    const View<const e2m1x2, 2> data = view<e2m1x2>(weight, want_.rows, want_.columns / 2);
    const int64_t columns = want_.columns / group;
    if (form == Fp4::kMxfp4) {
      refuse_global();
      if (scale.dtype != DType::kF8_E8M0 && scale.dtype != DType::kU8)
        wrong_scale(scale, "F8_E8M0 or U8", columns);
      if (scale.shape != Shape{want_.rows, columns}) wrong_scale_shape(scale, "F8_E8M0 or U8", columns);
      return Mxfp4{data, view<e8m0>(scale, want_.rows, columns)};
    }
    if (scale.dtype != DType::kF8_E4M3) wrong_scale(scale, "F8_E4M3", columns);
    if (scale.shape != Shape{want_.rows, columns}) wrong_scale_shape(scale, "F8_E4M3", columns);
    return Nvfp4{data, view<e4m3>(scale, want_.rows, columns), global()};
  }

  [[noreturn]] void wrong_scale(const TensorView& scale, std::string_view type, int64_t columns) const {
    refuse(Rule::kTensorType, scale.name, "expected {} [{}, {}], file has {}", type, want_.rows, columns,
           checkpoint::describe(scale));
  }
  [[noreturn]] void wrong_scale_shape(const TensorView& scale, std::string_view type, int64_t columns) const {
    refuse(Rule::kScaleShape, scale.name, "expected {} [{}, {}], file has {}", type, want_.rows, columns,
           checkpoint::describe(scale));
  }

  View<const float, 1> global() const {
    if (global_ == nullptr)
      refuse(Rule::kWeightWithoutScale, want_.name, "NVFP4 needs {}, the checkpoint has no such tensor",
             names_.global);
    if (global_->dtype != DType::kF32 || global_->bytes.size() != sizeof(float))
      refuse(Rule::kTensorType, global_->name, "expected F32 [], file has {}",
             checkpoint::describe(*global_));
    require_aligned(*global_);
    return {reinterpret_cast<const float*>(global_->bytes.data()), {1}};
  }

  TensorList tensors_;
  const Config& config_;
  const TensorName& want_;
  PartNames names_;
  const TensorView* weight_ = nullptr;
  const TensorView* scale_ = nullptr;
  const TensorView* global_ = nullptr;
  const TensorView* input_ = nullptr;
};

}  // namespace

std::variant<Bound, Finding> examine(TensorList tensors, const Config& config, const TensorName& want) {
  try {
    return Examiner(tensors, config, want).run();
  } catch (Finding& finding) {
    return std::move(finding);
  }
}

std::vector<const TensorView*> parts_of(TensorList tensors, const TensorName& weight) {
  std::vector<const TensorView*> parts;
  const auto add = [&](const std::string& name) {
    if (const TensorView* const tensor = checkpoint::find(tensors, name)) parts.push_back(tensor);
  };
  add(weight.name);
  const PartNames names = part_names(weight);
  if (names.global.empty()) return parts;
  for (const std::string& name : names.scales) add(name);
  add(names.global);
  add(names.input);
  return parts;
}

namespace {

// The one whose first layer is there; where there is none, every tensor will be missing in the official one.
Spelling spelling_of(TensorList tensors, const Config& config) {
  for (const Spelling spelling : {Spelling::kOfficial, Spelling::kSaved, Spelling::kModules}) {
    Config first = config;
    first.layers = 1;
    first.mtp_layers = first.experts = 0;
    for (const TensorName& name : tensor_names(first, spelling))
      if (name.layer == 0 && checkpoint::find(tensors, name.name) != nullptr) return spelling;
  }
  return Spelling::kOfficial;
}

// Some versions of save_pretrained keep the official name of this one.
void take_official_kv_norm(TensorList tensors, TensorName& name) {
  constexpr std::string_view kSaved = ".attn.norm.weight";
  if (name.role != Role::kWindowKvNorm || !name.name.ends_with(kSaved)) return;
  const std::string official = name.name.substr(0, name.name.size() - kSaved.size()) + ".attn.kv_norm.weight";
  if (checkpoint::find(tensors, name.name) == nullptr && checkpoint::find(tensors, official) != nullptr)
    name.name = official;
}

// Every tensor of the stages after the last that the table knows.
void add_unannounced_stages(TensorList tensors, const Config& config, std::vector<TensorName>& names) {
  for (const TensorView& tensor : tensors) {
    const int64_t layer = mtp_stage_layer(config, tensor.name);
    if (layer >= config.layers + config.mtp_layers)
      names.push_back(
          {tensor.name, Role::kMtp, Form::kAny, layer, kNotRouted, 0, 0, false, Role::kMtp, tensor.dtype});
  }
}

Names names_of_v4(TensorList tensors, const Config& config) {
  Names found;
  found.names = tensor_names(config, spelling_of(tensors, config));
  for (TensorName& name : found.names) take_official_kv_norm(tensors, name);
  add_unannounced_stages(tensors, config, found.names);
  return found;
}

}  // namespace

Config with_stored_experts(Config config, TensorList tensors) {
  if (!config.quantization || !config.quantization->experts_implied) return config;
  for (const TensorName& name : names_in(tensors, config).names) {
    if (name.expert == kNotRouted || !name.required) continue;
    const TensorView* const codes = checkpoint::find(tensors, name.name);
    if (codes != nullptr) config.quantization->experts = is_fp4(codes->dtype) ? Fp4::kMxfp4 : Fp4::kNone;
    return config;
  }
  return config;
}

Names names_in(TensorList tensors, const Config& config) {
  if (config.window) return names_of_v4(tensors, config);
  Names found;
  std::vector<bool> fused(static_cast<size_t>(config.layers + config.mtp_layers));
  for (size_t layer = 0; layer < fused.size(); ++layer)
    fused[layer] = !parts_of(tensors, fused_indexer(config, static_cast<int64_t>(layer))).empty();
  for (TensorName& name : tensor_names(config)) {
    const bool replaced = (name.part == Role::kIndexK || name.part == Role::kIndexGate) &&
                          fused[static_cast<size_t>(name.layer)];
    if (!replaced) {
      found.names.push_back(std::move(name));
      continue;
    }
    TensorName joined = fused_indexer(config, name.layer);
    for (const TensorView* const alone : parts_of(tensors, name))
      found.findings.push_back({Rule::kDuplicateTensor, alone->name,
                                fmt::format("{}: stands in {} already", alone->name, joined.name)});
    if (name.part == Role::kIndexGate) continue;
    joined.role = name.required ? Role::kIndexFused : name.role;
    joined.required = name.required;
    found.names.push_back(std::move(joined));
  }
  return found;
}

}  // namespace fulgurite::model
