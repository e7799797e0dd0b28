#include "fulgurite/model/convert.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "fulgurite/checkpoint/checkpoint_writer.h"
#include "fulgurite/core/encode.h"
#include "fulgurite/core/error.h"
#include "fulgurite/model/bind.h"

namespace fulgurite::model {
namespace {

using checkpoint::PlannedTensor;
using checkpoint::TensorView;
using Bytes = std::span<const std::byte>;

constexpr auto kFormNames =
    std::to_array<std::string_view>({"bf16", "fp8", "fp8-e8m0", "fp8-channel", "gate-fp8", "fused-bf16",
                                     "fused-fp8", "mxfp4-experts", "nvfp4-experts"});
static_assert(kFormNames.size() == static_cast<size_t>(CheckpointForm::kNvfp4Experts) + 1);

// What goes with a model besides its tensors and config.json.
constexpr std::array kFurtherFiles{"tokenizer.json",
                                   "tokenizer_config.json",
                                   "special_tokens_map.json",
                                   "added_tokens.json",
                                   "tokenizer.model",
                                   "vocab.json",
                                   "merges.txt",
                                   "chat_template.jinja",
                                   "chat_template.json",
                                   "generation_config.json",
                                   "LICENSE"};

// A weight of the new checkpoint: one matrix of the source, or two, one below the other; or tensors as they
// are.
struct Weight {
  std::string module;  // the name without ".weight"
  std::vector<StoredMatrix> sources;
  MatrixFormat target;
  std::vector<const TensorView*> copies;

  int64_t out() const {
    int64_t rows = 0;
    for (const StoredMatrix& source : sources) rows += source.out;
    return rows;
  }
  int64_t in() const { return sources.front().in; }
};

constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

bool has_blocks(const BlockShape& block) { return block.columns != kWhole; }

std::string module_of(const TensorName& name) {
  return name.name.substr(0, name.name.size() - std::string_view(".weight").size());
}

// Which weights there will be, and how.
class Converter {
 public:
  Converter(const checkpoint::Checkpoint& source, CheckpointForm form)
      : source_(source), form_(form), model_(bind(source)) {
    const std::optional<Quantization>& q = model_.config.quantization;
    block_ = q && has_blocks(q->block) ? q->block : BlockShape{128, 128};
    const bool pow2 = q && q->activation_scale == ScaleRounding::kPow2;
    rounding_ = pow2 || form == CheckpointForm::kFp8E8M0 ? ScaleRounding::kPow2 : ScaleRounding::kNone;
    if (form == CheckpointForm::kFp8Channel) rounding_ = ScaleRounding::kNone;
    const bool v4 = model_.config.window.has_value();
    if (v4 && fuses())
      fail(ErrorKind::kRequest,
           "{}: no wk and weights_proj to fuse, the keys of the indexer are made by a compressor",
           name(model_.config.family));
    if (v4 && form != CheckpointForm::kFp8) own_scales_ = ScaleFormat::kE8M0;
    if (own_scales_ == ScaleFormat::kE8M0 && form != CheckpointForm::kFp8Channel)
      rounding_ = ScaleRounding::kPow2;
    for (size_t i = 0; i < model_.names.size(); ++i) add(model_.names[i], model_.parts[i]);
  }

  std::vector<PlannedTensor> entries() const {
    std::vector<PlannedTensor> entries;
    for (const Weight& weight : weights_) add_entries(weight, entries);
    return entries;
  }
  const std::vector<Weight>& weights() const { return weights_; }
  std::string config_text() const;

  void write(const Weight& weight, checkpoint::CheckpointWriter& writer, ConvertResult& result) const;

 private:
  bool fuses() const { return form_ == CheckpointForm::kFusedBF16 || form_ == CheckpointForm::kFusedFp8; }

  // Of a layer that is left out one half may be missing.
  bool has_both(int64_t layer) const {
    int64_t halves = 0;
    for (size_t i = 0; i < model_.names.size(); ++i) {
      const TensorName& name = model_.names[i];
      const bool half = name.part == Role::kIndexK || name.part == Role::kIndexGate;
      halves += half && name.layer == layer && !model_.parts[i].empty();
    }
    return halves == 2;
  }

  void add(const TensorName& name, const std::vector<const TensorView*>& parts) {
    if (parts.empty()) return;  // of an MTP layer that is not there
    if (name.form == Form::kStack)
      fail(ErrorKind::kRequest, "{}: experts in one tensor are not converted, only a tensor for each",
           name.name);
    if (name.form != Form::kLinear && name.form != Form::kGate) {
      weights_.push_back({"", {}, {}, parts});
      return;
    }
    std::variant<Bound, Finding> examined = examine(source_.tensors(), model_.config, name);
    if (const auto* const finding = std::get_if<Finding>(&examined))
      throw Error(ErrorKind::kModel, finding->message);
    const StoredMatrix& matrix = std::get<StoredMatrix>(std::get<Bound>(examined).as);
    if (name.part == Role::kIndexFused) return add_fused(name, matrix);
    const bool half = name.part == Role::kIndexK || name.part == Role::kIndexGate;
    if (half && fuses() && has_both(name.layer)) {
      if (name.part == Role::kIndexK) return add_fused_key(name, matrix);
      return weights_[fused_at_].sources.push_back(matrix);
    }
    add_matrix(name, matrix, parts);
  }

  void add_matrix(const TensorName& name, const StoredMatrix& matrix,
                  const std::vector<const TensorView*>& parts) {
    const std::string module = module_of(name);
    const bool quantized = name.part != Role::kIndexGate || form_ == CheckpointForm::kGateFp8;
    if (!quantized && !has_scales(format_of(matrix)))
      weights_.push_back({module, {}, {}, parts});
    else
      weights_.push_back({module, {matrix}, quantized ? target_of(name) : kBF16, {}});
  }

  MatrixFormat blocks(ScaleFormat scale) const { return {MatrixForm::kE4M3Blocks, block_, scale}; }
  MatrixFormat blocks() const { return blocks(own_scales_); }

  MatrixFormat target_of(const TensorName& name) const {
    const bool routed = name.expert != kNotRouted;
    switch (form_) {
      case CheckpointForm::kBF16:
        return kBF16;
      case CheckpointForm::kFp8E8M0:
        return blocks(ScaleFormat::kE8M0);
      case CheckpointForm::kFp8Channel:
        return {MatrixForm::kE4M3Blocks, {1, kWhole}, ScaleFormat::kF32};
      case CheckpointForm::kMxfp4Experts:
        return routed ? require_groups(name, {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0}) : blocks();
      case CheckpointForm::kNvfp4Experts:
        return routed ? require_groups(name, {MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3}) : blocks();
      default:
        return blocks();
    }
  }

  static MatrixFormat require_groups(const TensorName& name, const MatrixFormat& target) {
    if (name.columns % target.block.columns != 0)
      fail(ErrorKind::kRequest, "{}: expected a multiple of {} columns for this form, found {}", name.name,
           target.block.columns, name.columns);
    return target;
  }

  // wk, to which weights_proj is added when it comes.
  void add_fused_key(const TensorName& name, const StoredMatrix& matrix) {
    fused_at_ = weights_.size();
    add_joined(name.layer, {matrix});
  }
  void add_joined(int64_t layer, std::vector<StoredMatrix> sources) {
    const MatrixFormat target = form_ == CheckpointForm::kFusedFp8 ? blocks() : kBF16;
    weights_.push_back({module_of(fused_indexer(model_.config, layer)), std::move(sources), target, {}});
  }

  // The source has the joined tensor.
  void add_fused(const TensorName& name, const StoredMatrix& matrix) {
    if (fuses()) return add_joined(name.layer, {matrix});
    const Config& c = model_.config;
    const std::string indexer = fmt::format("model.layers.{}.self_attn.indexer.", name.layer);
    const StoredMatrix gate = rows_of(matrix, c.index_dim, c.index_heads);
    weights_.push_back({indexer + "wk", {rows_of(matrix, 0, c.index_dim)}, target_of(name), {}});
    const bool quantizes_gate = form_ == CheckpointForm::kGateFp8;
    weights_.push_back({indexer + "weights_proj", {gate}, quantizes_gate ? target_of(name) : kBF16, {}});
  }

  std::string scale_suffix(const MatrixFormat& target) const {
    if (target.scale == ScaleFormat::kE8M0) return ".scale";
    return target.form == MatrixForm::kNvfp4 || !has_blocks(target.block) ? ".weight_scale"
                                                                          : ".weight_scale_inv";
  }

  void add_entries(const Weight& weight, std::vector<PlannedTensor>& entries) const;
  EncodedMatrix encode(const Weight& weight) const;
  EncodedMatrix encode_named(const Weight& weight) const;  // its errors name the weight
  // Codes as they stand, and the scales if they can be written as the target has them.
  std::optional<std::pair<Bytes, std::vector<std::byte>>> kept_codes(const Weight& weight) const;

  const checkpoint::Checkpoint& source_;
  CheckpointForm form_;
  Model model_;
  BlockShape block_;
  ScaleRounding rounding_ = ScaleRounding::kNone;
  ScaleFormat own_scales_ = ScaleFormat::kF32;  // of fp8 blocks, where the form does not say
  std::vector<Weight> weights_;
  size_t fused_at_ = 0;
};

void Converter::add_entries(const Weight& weight, std::vector<PlannedTensor>& entries) const {
  for (const TensorView* const copy : weight.copies)
    entries.push_back({copy->name, copy->dtype, copy->shape});
  if (!weight.copies.empty()) return;
  const int64_t out = weight.out(), in = weight.in();
  const MatrixFormat& t = weight.target;
  const std::string name = weight.module + ".weight", scale = weight.module + scale_suffix(t);
  const auto groups = [](int64_t extent, int64_t block) { return (extent + block - 1) / block; };
  switch (t.form) {
    case MatrixForm::kBF16:
      entries.push_back({name, DType::kBF16, {out, in}});
      return;
    case MatrixForm::kE4M3Blocks:
      entries.push_back({name, DType::kF8_E4M3, {out, in}});
      entries.push_back({scale,
                         t.scale == ScaleFormat::kF32 ? DType::kF32 : DType::kF8_E8M0,
                         {groups(out, t.block.rows), groups(in, t.block.columns)}});
      return;
    case MatrixForm::kMxfp4:
      entries.push_back({name, DType::kI8, {out, in / 2}});
      entries.push_back({scale, DType::kF8_E8M0, {out, in / 32}});
      return;
    case MatrixForm::kNvfp4:
      entries.push_back({name, DType::kU8, {out, in / 2}});
      entries.push_back({scale, DType::kF8_E4M3, {out, in / 16}});
      entries.push_back({weight.module + ".weight_scale_2", DType::kF32, {}});
      return;
    case MatrixForm::kF32:
      break;
  }
  FULGURITE_ASSERT(false, "{} is no target", describe(t));
}

MatrixValues values_of(const Weight& weight) {
  return {weight.out(), weight.in(), [&weight](int64_t row, double* out) {
            size_t source = 0;
            while (row >= weight.sources[source].out) row -= weight.sources[source++].out;
            exact_row(weight.sources[source], row, out);
          }};
}

EncodedMatrix Converter::encode(const Weight& weight) const {
  const MatrixValues values = values_of(weight);
  switch (weight.target.form) {
    case MatrixForm::kBF16:
      return encode_bf16(values);
    case MatrixForm::kE4M3Blocks:
      return encode_e4m3(values, weight.target.block, weight.target.scale, rounding_);
    case MatrixForm::kMxfp4:
      return encode_mxfp4(values);
    case MatrixForm::kNvfp4:
      return encode_nvfp4(values);
    case MatrixForm::kF32:
      break;
  }
  FULGURITE_ASSERT(false, "{} is no target", describe(weight.target));
}

EncodedMatrix Converter::encode_named(const Weight& weight) const {
  try {
    return encode(weight);
  } catch (const Error& error) {
    fail(error.kind(), "{}.weight: {}", weight.module, error.what());
  }
}

template <class T>
Bytes bytes_of(const View<const T, 2>& view) {
  return std::as_bytes(std::span(view.data, static_cast<size_t>(view.size())));
}

template <class T>
void append(std::vector<std::byte>& bytes, T element) {
  const Bytes added = std::as_bytes(std::span(&element, 1));
  bytes.insert(bytes.end(), added.begin(), added.end());
}

std::optional<std::pair<Bytes, std::vector<std::byte>>> Converter::kept_codes(const Weight& weight) const {
  if (weight.target.form == MatrixForm::kMxfp4 && weight.sources.size() == 1)
    if (const auto* const groups = std::get_if<Mxfp4>(&weight.sources.front().as)) {
      const Bytes scales = bytes_of(groups->scale);
      return std::pair{bytes_of(groups->data), std::vector<std::byte>(scales.begin(), scales.end())};
    }
  if (weight.target.form != MatrixForm::kE4M3Blocks || weight.sources.size() != 1) return std::nullopt;
  const auto* const blocks = std::get_if<BlockScaled>(&weight.sources.front().as);
  if (blocks == nullptr || blocks->block != weight.target.block) return std::nullopt;
  std::vector<std::byte> scales;
  const auto& shape = blocks->format == ScaleFormat::kF32 ? blocks->scale.extent : blocks->exponents.extent;
  for (int64_t i = 0; i < shape[0]; ++i) {
    for (int64_t j = 0; j < shape[1]; ++j) {
      const float scale =
          blocks->format == ScaleFormat::kF32 ? blocks->scale(i, j) : to_float(blocks->exponents(i, j));
      const std::optional<e8m0> exponent = exact_e8m0(scale);
      if (weight.target.scale == ScaleFormat::kF32)
        append(scales, scale);
      else if (exponent)
        append(scales, *exponent);
      else
        return std::nullopt;
    }
  }
  return std::pair{bytes_of(blocks->data), std::move(scales)};
}

// What became of a weight that was encoded anew.
Requantized report_of(const Weight& weight, const EncodedMatrix& encoded) {
  std::string from = describe(format_of(weight.sources.front()));
  for (size_t i = 1; i < weight.sources.size(); ++i) from += " + " + describe(format_of(weight.sources[i]));
  const StoredMatrix made = view_of(encoded, weight.target, weight.out(), weight.in());
  return {weight.module + ".weight", std::move(from), describe(weight.target),
          encoding_error(values_of(weight), made)};
}

void Converter::write(const Weight& weight, checkpoint::CheckpointWriter& writer,
                      ConvertResult& result) const {
  for (const TensorView* const copy : weight.copies) {
    writer.write(copy->name, copy->bytes);
    result.copied_bytes += static_cast<int64_t>(copy->bytes.size());
  }
  if (!weight.copies.empty()) return;
  const std::string name = weight.module + ".weight", scale = weight.module + scale_suffix(weight.target);
  if (const auto kept = kept_codes(weight)) {
    writer.write(name, kept->first);
    writer.write(scale, kept->second);
    result.copied_bytes += static_cast<int64_t>(kept->first.size());
    return;
  }
  const EncodedMatrix encoded = encode_named(weight);
  writer.write(name, encoded.data);
  if (!encoded.scale.empty()) writer.write(scale, encoded.scale);
  if (!encoded.global.empty()) writer.write(weight.module + ".weight_scale_2", encoded.global);
  result.requantized.push_back(report_of(weight, encoded));
}

std::string Converter::config_text() const {
  nlohmann::ordered_json json = nlohmann::ordered_json::parse(source_.config_text());
  json.erase("quantization_config");
  json.erase("expert_dtype");
  if (form_ == CheckpointForm::kBF16) return json.dump(2) + "\n";
  nlohmann::ordered_json quantization{
      {"activation_scheme", "dynamic"}, {"fmt", "e4m3"}, {"quant_method", "fp8"}};
  if (rounding_ == ScaleRounding::kPow2) quantization["scale_fmt"] = "ue8m0";
  if (form_ != CheckpointForm::kFp8Channel) quantization["weight_block_size"] = {block_.rows, block_.columns};
  json["quantization_config"] = quantization;
  if (form_ == CheckpointForm::kMxfp4Experts) json["expert_dtype"] = "fp4";
  if (form_ == CheckpointForm::kNvfp4Experts) json["expert_dtype"] = "nvfp4";
  if (model_.config.window && !json.contains("expert_dtype")) json["expert_dtype"] = "fp8";
  return json.dump(2) + "\n";
}

void copy_further_files(const std::filesystem::path& from, checkpoint::CheckpointWriter& writer) {
  for (const char* const name : kFurtherFiles)
    if (std::filesystem::is_regular_file(from / name))
      writer.write_file(name, checkpoint::MappedFile(from / name).text());
}

}  // namespace

std::vector<std::string_view> form_names() { return {kFormNames.begin(), kFormNames.end()}; }

std::optional<CheckpointForm> form_from_name(std::string_view name) {
  const auto at = std::ranges::find(kFormNames, name);
  if (at == kFormNames.end()) return std::nullopt;
  return static_cast<CheckpointForm>(at - kFormNames.begin());
}

ConvertResult convert(const checkpoint::Checkpoint& source, const std::filesystem::path& out,
                      const ConvertOptions& options) {
  const Converter converter(source, options.form);
  const std::vector<PlannedTensor> entries = converter.entries();
  ConvertResult result;
  result.tensors = static_cast<int64_t>(entries.size());
  checkpoint::CheckpointWriter writer(out, entries, options.shard_bytes);
  result.shards = static_cast<int64_t>(writer.shards());
  result.bytes = writer.total_bytes();
  for (const Weight& weight : converter.weights()) {
    converter.write(weight, writer, result);
    if (options.progress) options.progress(writer.written_bytes(), result.bytes);
  }
  copy_further_files(source.directory(), writer);
  writer.write_file("config.json", converter.config_text());
  writer.commit();
  return result;
}

}  // namespace fulgurite::model
