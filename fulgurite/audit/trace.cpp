#include "fulgurite/audit/trace.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <functional>
#include <numeric>
#include <tuple>

#include "fulgurite/checkpoint/writer.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/error.h"

namespace fulgurite::audit {
namespace {

using execute::TapPoint;
using execute::TapTensor;

// In the order of TapPoint.
constexpr auto kNames = std::to_array<std::string_view>(
    {"attn_in", "q_latent", "q_normed", "q", "kv_latent", "k_rope", "kv", "entries", "index_q", "index_k",
     "index_weights", "index_scores", "topk", "attn_heads", "attn_out", "expert_ids", "expert_weights",
     "hidden", "logits"});
static_assert(kNames.size() == static_cast<size_t>(TapPoint::kLogits) + 1);

struct ParsedName {
  int64_t layer = INT64_MAX;
  size_t point = kNames.size();
};

// "layer12.hidden" -> 12, hidden; unknown names stay at the end.
ParsedName parse(std::string_view name) {
  ParsedName parsed;
  if (name == "input_ids") return {-1, 0};
  if (name.starts_with("layer")) {
    const size_t dot = name.find('.');
    const char* const digits = name.data() + 5;
    const auto end = std::from_chars(digits, name.data() + std::min(dot, name.size()), parsed.layer);
    if (dot == std::string_view::npos || end.ec != std::errc() || end.ptr != name.data() + dot) return {};
    name.remove_prefix(dot + 1);
  }
  parsed.point = static_cast<size_t>(std::ranges::find(kNames, name) - kNames.begin());
  return parsed;
}

bool replaceable(TapPoint point) {
  return point == TapPoint::kTopk || point == TapPoint::kAttnOut || point == TapPoint::kHidden;
}

// Ascending, distinct, each of the first `visible` rows, -1 at the end; at least one where any is visible.
void arrange_selection(const std::string& name, int64_t position, int64_t visible, std::span<int32_t> row) {
  std::ranges::sort(row,
                    [](int32_t a, int32_t b) { return static_cast<uint32_t>(a) < static_cast<uint32_t>(b); });
  for (size_t i = 0; i < row.size(); ++i) {
    const bool seen = row[i] >= -1 && row[i] < visible;
    const bool repeated = i > 0 && row[i] == row[i - 1] && row[i] != -1;
    const bool none = row[0] == -1 && visible > 0;
    if (!seen || repeated || none)
      fail(ErrorKind::kRequest, "{}: position {}: expected distinct rows of 0 to {}, found {}", name,
           position, visible - 1, row[i]);
  }
}

// Tokens that a row of the selection stands for.
int64_t tokens_a_row(const model::Config& config, int64_t layer) {
  return std::max<int64_t>(1, config.ratio(layer));
}

// The shape of a replaced tensor's row.
std::vector<int64_t> row_shape(TapPoint point, int64_t layer, const model::Config& config,
                               int64_t positions) {
  if (point == TapPoint::kTopk)
    return {std::min(config.index_topk, std::max<int64_t>(1, positions / tokens_a_row(config, layer)))};
  if (point == TapPoint::kHidden && config.streams) return {config.streams->count, config.hidden};
  return {config.hidden};
}

// `width` elements as f32 or, if that is what they are, i32.
void append(const Tensor<1>& row, int64_t width, std::vector<std::byte>& bytes) {
  const size_t at = bytes.size();
  bytes.resize(at + static_cast<size_t>(width) * 4);
  for (int64_t i = 0; i < width; ++i) {
    const float value = row.dtype == DType::kI32 ? 0.0f : load(row, i);
    const void* const from =
        row.dtype == DType::kI32 ? static_cast<const void*>(&row.as<int32_t>()(i)) : &value;
    std::memcpy(bytes.data() + at + static_cast<size_t>(i) * 4, from, 4);
  }
}

}  // namespace

std::string trace_name(TapPoint point, int64_t layer) {
  const std::string_view name = kNames[static_cast<size_t>(point)];
  return layer < 0 ? std::string(name) : fmt::format("layer{}.{}", layer, name);
}

std::optional<std::pair<TapPoint, int64_t>> parse_trace_name(std::string_view name) {
  const ParsedName parsed = parse(name);
  if (parsed.point >= kNames.size() || name == "input_ids") return std::nullopt;
  const auto point = static_cast<TapPoint>(parsed.point);
  const int64_t layer = parsed.layer == INT64_MAX ? model::kNoLayer : parsed.layer;
  if ((point == TapPoint::kLogits) != (layer < 0) || trace_name(point, layer) != name) return std::nullopt;
  return std::pair(point, layer);
}

bool computed_before(const std::string& a, const std::string& b) {
  const ParsedName left = parse(a), right = parse(b);
  return std::tie(left.layer, left.point, a) < std::tie(right.layer, right.point, b);
}

Injection::Injection(const checkpoint::SafetensorsFile& file, const std::string& prefix,
                     const std::vector<std::string>& only, const model::Config& config, int64_t positions) {
  for (const checkpoint::TensorView& tensor : file.tensors()) {
    if (!tensor.name.starts_with(prefix)) continue;
    const std::string name = tensor.name.substr(prefix.size());
    const ParsedName parsed = parse(name);
    if (parsed.layer < 0 || parsed.layer >= config.layers || parsed.point >= kNames.size()) continue;
    if (!replaceable(static_cast<TapPoint>(parsed.point))) continue;
    if (!only.empty() && std::ranges::find(only, kNames[parsed.point]) == only.end()) continue;
    // "layer00.topk" beside "layer0.topk" would replace the same rows twice.
    if (const std::string canonical = trace_name(static_cast<TapPoint>(parsed.point), parsed.layer);
        name != canonical)
      fail(ErrorKind::kRequest, "{}: expected the name {}", printable(tensor.name), canonical);
    take(name, tensor, config, positions);
  }
  if (names_.empty())
    fail(ErrorKind::kRequest,
         "{}: no tensor \"{}layerL.topk\", \"{}layerL.attn_out\" or \"{}layerL.hidden\" to inject",
         checkpoint::printable_path(file.path()), printable(prefix), printable(prefix), printable(prefix));
}

void Injection::take(const std::string& name, const checkpoint::TensorView& tensor,
                     const model::Config& config, int64_t positions) {
  const ParsedName parsed = parse(name);
  const auto point = static_cast<TapPoint>(parsed.point);
  const bool selection = point == TapPoint::kTopk;
  const std::vector<int64_t> shape = row_shape(point, parsed.layer, config, positions);
  const DType dtype = selection ? DType::kI32 : DType::kF32;
  if (tensor.dtype != dtype || tensor.shape.size() != shape.size() + 1 || tensor.shape[0] > positions ||
      !std::equal(shape.begin(), shape.end(), tensor.shape.begin() + 1))
    fail(ErrorKind::kRequest, "{}: expected {} [1 to {}, {}], file has {}", printable(tensor.name),
         fulgurite::name(dtype), positions, fmt::join(shape, ", "), checkpoint::describe(tensor));
  const int64_t width = std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
  Rows rows{positions - tensor.shape[0], width, {}, {}};
  if (selection) {
    const auto values = checkpoint::i32_values(tensor);
    rows.i32.assign(values.begin(), values.end());
    for (int64_t r = 0; r < tensor.shape[0]; ++r)
      arrange_selection(name, rows.first_position + r,
                        (rows.first_position + r + 1) / tokens_a_row(config, parsed.layer),
                        {rows.i32.data() + r * width, static_cast<size_t>(width)});
  } else {
    const auto values = checkpoint::f32_values(tensor);
    rows.f32.assign(values.begin(), values.end());
  }
  rows_[{point, parsed.layer}] = std::move(rows);
  names_.push_back(name);
}

std::vector<plan::Pass::Split> Injection::splits(int64_t begin, int64_t tokens) const {
  std::vector<plan::Pass::Split> splits;
  for (const auto& [at, rows] : rows_) {
    const auto& [point, layer] = at;
    const int64_t first = rows.first_position - begin;
    if (point == TapPoint::kHidden && first > 0 && first < tokens) splits.push_back({layer, first});
  }
  return splits;
}

Trace::Trace(int32_t sequence, int64_t positions, int64_t last, Injection injection)
    : sequence_(sequence),
      positions_(positions),
      first_(positions - last),
      injection_(std::move(injection)) {}

void Trace::begin(std::span<const TokenPlace> places) { places_ = places; }

execute::Tap::Replacement Trace::replaced_hidden(int64_t layer) {
  const auto found = injection_.rows_.find({TapPoint::kHidden, layer});
  if (found == injection_.rows_.end()) return {};
  // A pass brings one chunk of the sequence, its positions ascending: the replaced tokens are its tail.
  FULGURITE_ASSERT(std::ranges::all_of(places_, [&](TokenPlace p) { return p.sequence == sequence_; }),
                   "hidden is injected into a batch of several sequences");
  Injection::Rows& rows = found->second;
  const int64_t begin = places_.front().position, tokens = static_cast<int64_t>(places_.size());
  const int64_t first_token = std::clamp<int64_t>(rows.first_position - begin, 0, tokens);
  if (first_token == tokens) return {};
  const int64_t row = begin + first_token - rows.first_position;
  return {first_token,
          View<const float, 2>(rows.f32.data() + row * rows.width, {tokens - first_token, rows.width})};
}

void Trace::at(TapPoint point, int64_t layer, const TapTensor& tensor) {
  inject(point, layer, tensor);
  keep(point, layer, tensor);
}

void Trace::inject(TapPoint point, int64_t layer, const TapTensor& tensor) const {
  const auto found = injection_.rows_.find({point, layer});
  if (found == injection_.rows_.end() || point == TapPoint::kHidden) return;
  const Injection::Rows& rows = found->second;
  for (size_t t = 0; t < places_.size(); ++t) {
    const int64_t row = places_[t].position - rows.first_position;
    if (places_[t].sequence != sequence_ || row < 0) continue;
    const Tensor<1> to = tensor.view[static_cast<int64_t>(t)][0];
    for (int64_t i = 0; i < rows.width; ++i) {
      if (rows.i32.empty())
        store(to, rows.f32[static_cast<size_t>(row * rows.width + i)], i);
      else
        to.as<int32_t>()(i) = rows.i32[static_cast<size_t>(row * rows.width + i)];
    }
  }
}

void Trace::keep(TapPoint point, int64_t layer, const TapTensor& tensor) {
  Kept& kept = kept_[trace_name(point, layer)];
  // Scores of positions that the sequence will never hold say nothing.
  const int64_t width = point == TapPoint::kIndexScores
                            ? std::min(tensor.view.extent[2], positions_ / tensor.column_tokens)
                            : tensor.view.extent[2];
  kept.dtype = tensor.view.dtype == DType::kI32 ? DType::kI32 : DType::kF32;  // bf16 and fp16 widen exactly
  kept.shape =
      tensor.rank == 3 ? std::vector<int64_t>{tensor.view.extent[1], width} : std::vector<int64_t>{width};
  for (int64_t t = 0; t < tensor.view.extent[0]; ++t) {
    const TokenPlace place = places_[static_cast<size_t>(t)];
    if (place.sequence != sequence_ || (place.position + 1) % tensor.every != 0) continue;
    if (tensor.every == 1 && place.position < first_) continue;  // of what is rarer, all rows
    for (int64_t h = 0; h < tensor.view.extent[1]; ++h) {
      append(tensor.view[t][h], width, kept.bytes);
    }
  }
}

void Trace::write(const std::filesystem::path& path) const {
  std::vector<checkpoint::TensorView> tensors;
  for (const auto& [name, kept] : kept_) {
    const int64_t width =
        std::accumulate(kept.shape.begin(), kept.shape.end(), int64_t{4}, std::multiplies<>());
    std::vector<int64_t> shape{static_cast<int64_t>(kept.bytes.size()) / width};
    shape.insert(shape.end(), kept.shape.begin(), kept.shape.end());
    tensors.push_back({name, kept.dtype, shape, kept.bytes});
  }
  checkpoint::write_safetensors(path, tensors);
}

}  // namespace fulgurite::audit
