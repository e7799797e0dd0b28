#include "fulgurite/audit/dump.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>

#include "fulgurite/audit/dump_layout.h"
#include "fulgurite/audit/trace.h"
#include "fulgurite/core/error.h"

namespace fulgurite::audit {
namespace {

using checkpoint::TensorView;
using execute::TapPoint;
using Shape = std::vector<int64_t>;

bool holds_indices(TapPoint point) { return point == TapPoint::kTopk || point == TapPoint::kExpertIds; }
// Positions that a row of this tensor stands for.
int64_t every_of(TapPoint point, int64_t layer, const model::Config& c) {
  const bool of_entries = point == TapPoint::kEntries || (point == TapPoint::kIndexK && c.window.has_value());
  return of_entries ? c.ratio(layer) : 1;
}

// What a row of the selection stands for.
int64_t candidates(int64_t layer, const model::Config& c, int64_t positions) {
  return positions / std::max<int64_t>(1, c.ratio(layer));
}

// The shape of a row; nothing where the model has no such tensor.
std::optional<Shape> row_shape(TapPoint point, int64_t layer, const model::Config& c, int64_t positions) {
  const bool v4 = c.window.has_value();
  const auto where = [](bool has, Shape shape) {
    return has ? std::optional(std::move(shape)) : std::nullopt;
  };
  const bool indexer = layer >= 0 && c.has_indexer(layer);
  switch (point) {
    case TapPoint::kAttnIn:
      return where(v4, {c.hidden});
    case TapPoint::kQLatent:
      return Shape{c.q_lora};
    case TapPoint::kQNormed:
      return where(v4, {c.heads, c.nope + c.rope});
    case TapPoint::kQ:
      return Shape{c.heads, c.nope + c.rope};
    case TapPoint::kKvLatent:
      return where(!v4, {c.kv_lora});
    case TapPoint::kKRope:
      return where(!v4, {c.rope});
    case TapPoint::kKv:
      return where(v4, {c.nope + c.rope});
    case TapPoint::kEntries:
      return where(c.ratio(layer) > 0, {c.nope + c.rope});
    case TapPoint::kIndexQ:
      return where(indexer, {c.index_heads, c.index_dim});
    case TapPoint::kIndexK:
      return where(indexer, {c.index_dim});
    case TapPoint::kIndexWeights:
      return where(indexer, {c.index_heads});
    case TapPoint::kIndexScores:
      return where(indexer, {candidates(layer, c, positions)});
    case TapPoint::kTopk:
      return where(!v4 || indexer, {std::min(c.index_topk, candidates(layer, c, positions))});
    case TapPoint::kAttnHeads:
      return Shape{c.heads, c.value};
    case TapPoint::kAttnOut:
      return Shape{c.hidden};
    case TapPoint::kExpertIds:
    case TapPoint::kExpertWeights:
      return where(!c.dense(layer), {c.experts_per_token});
    case TapPoint::kHidden:
      return c.streams ? Shape{c.streams->count, c.hidden} : Shape{c.hidden};
    case TapPoint::kLogits:
      return Shape{c.vocabulary};
  }
  return std::nullopt;
}

// Rows of a selection may be wider or narrower than ours.
bool fits(TapPoint point, const Array& array, const Shape& row, int64_t most_rows, bool of_entries) {
  if (array.shape.size() != row.size() + 1 || array.shape[0] > most_rows) return false;
  if (array.shape[0] < 1 && most_rows > 0) return false;
  if (of_entries && array.shape[0] != most_rows) return false;
  if (point == TapPoint::kTopk) return array.shape[1] >= 1;
  return std::equal(row.begin(), row.end(), array.shape.begin() + 1);
}

// What our names come from: the map's tensors, and those of the files that nothing of the map reads.
class Names {
 public:
  Names(const checkpoint::TensorFiles& files, const std::string& prefix, const DumpMap& map) {
    sources = map.sources();
    std::set<std::string> read;
    std::map<std::tuple<std::string, int64_t>, std::string> readers;
    for (const auto& [ours, source] : sources)
      for (const std::string& from : source.from) {
        read.insert(prefix + from);
        const auto [other, first] = readers.emplace(std::tuple(from, source.first_column.value_or(-1)), ours);
        if (!first)
          fail(ErrorKind::kRequest, "\"{}\" maps twice: it is {} and {}", printable(from), other->second,
               ours);
      }
    for (const TensorView& tensor : files.tensors()) {
      if (!tensor.name.starts_with(prefix) || read.contains(tensor.name)) continue;
      const std::string name = tensor.name.substr(prefix.size());
      if (name != "input_ids" && !parse_trace_name(name)) {
        unread.push_back(name);
        continue;
      }
      DumpSource source;
      source.from = {name};
      if (!sources.emplace(name, source).second)
        fail(ErrorKind::kRequest,
             "{} maps twice: the map reads it from \"{}\", and the dump has one of this name", name,
             printable(sources.at(name).from.front()));
    }
  }
  std::map<std::string, DumpSource> sources;
  std::vector<std::string> unread;
};

std::vector<int32_t> ids_of(const Array& array, const std::string& name) {
  std::vector<int32_t> ids;
  for (const double value : array.values) {
    if (value < INT32_MIN || value > INT32_MAX)
      fail(ErrorKind::kRequest, "{}: {} is no index", name, static_cast<int64_t>(value));
    ids.push_back(static_cast<int32_t>(value));
  }
  return ids;
}

void check_ids(const std::vector<int32_t>& ids, const model::Config& config) {
  const auto count = static_cast<int64_t>(ids.size());
  if (count < 1 || count > config.max_positions)
    fail(ErrorKind::kRequest, "input_ids: expected 1 to {} ids (the model's maximum), found {}",
         config.max_positions, count);
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= config.vocabulary)
      fail(ErrorKind::kRequest, "input_ids: position {}: token id {} is outside the vocabulary of {}", i,
           ids[i], config.vocabulary);
}

void require_finite(const std::map<StageKey, DumpTensor>& tensors, const model::Config& config) {
  for (const auto& [key, tensor] : tensors) {
    const int64_t width = tensor.width();
    for (int64_t r = 0; r < (tensor.indices() ? 0 : tensor.rows); ++r) {
      // What is not visible yet may hold anything.
      const bool scores = key.second == TapPoint::kIndexScores;
      const int64_t seen =
          scores ? (tensor.first_row + r + 1) / std::max<int64_t>(1, config.ratio(key.first)) : width;
      for (int64_t i = 0; i < std::min(seen, width); ++i)
        if (const float value = tensor.row(r)[i]; !std::isfinite(value))
          fail(ErrorKind::kRequest, "{}: {} at row {}, column {} ({} {}): nothing after it can be judged",
               tensor.name,
               std::isnan(value) ? "NaN"
               : value > 0       ? "infinity"
                                 : "-infinity",
               r, i, tensor.every == 1 ? "position" : "entry", tensor.first_row + r);
    }
  }
}

}  // namespace

int64_t DumpTensor::width() const { return product(row_shape); }

Dump::Dump(const checkpoint::TensorFiles& files, const std::string& prefix, const DumpMap& map,
           const model::Config& config, std::vector<int32_t> ids)
    : layers_(config.layers) {
  Names names(files, prefix, map);
  unread_ = std::move(names.unread);
  if (const auto own = names.sources.find("input_ids"); own != names.sources.end()) {
    ids_ = ids_of(read_source(files, prefix, "input_ids", own->second, true), "input_ids");
    if (!ids.empty() && ids != ids_)
      fail(ErrorKind::kRequest, "input_ids: the dump's are not those that were given");
    names.sources.erase(own);
  } else {
    if (ids.empty())
      fail(ErrorKind::kRequest, "{}: no tensor \"{}input_ids\", and no ids or text given",
           checkpoint::printable_path(files.path()), printable(prefix));
    ids_ = std::move(ids);
  }
  check_ids(ids_, config);
  for (const auto& [name, source] : names.sources) {
    const auto parsed = parse_trace_name(name);
    if (!parsed)
      fail(ErrorKind::kRequest, "the map: no tensor \"{}\" in docs/formats/trace.md", printable(name));
    const auto [point, layer] = *parsed;
    if (layer >= config.layers)
      fail(ErrorKind::kRequest, "{}: the model has layers 0 to {}", name, config.layers - 1);
    const std::optional<Shape> row = row_shape(point, layer, config, positions());
    if (!row && source.every_layer) continue;
    if (!row) fail(ErrorKind::kRequest, "{}: the model has no such tensor in this layer", name);
    Array array = read_source(files, prefix, name, source, holds_indices(point));
    fit(array, *row);
    const int64_t every = every_of(point, layer, config), most = positions() / every;
    if (!fits(point, array, *row, most, every > 1))
      wrong_layout(name,
                   fmt::format("{} [{}{}, {}]", holds_indices(point) ? "I32" : "F32",
                               every > 1 ? "" : "1 to ", most, fmt::join(*row, ", ")),
                   array);
    if (most == 0) continue;  // a prompt too short for an entry
    arrange_columns(array, name, source);
    DumpTensor tensor{
        name, array.stored, {array.shape.begin() + 1, array.shape.end()}, array.shape[0], 0, every, {}, {}};
    if (every == 1) tensor.first_row = positions() - tensor.rows;
    if (holds_indices(point))
      tensor.i32 = ids_of(array, name);
    else
      for (const double value : array.values) tensor.f32.push_back(static_cast<float>(value));
    tensors_.emplace(key(point, layer), std::move(tensor));
  }
  if (tensors_.empty())
    fail(ErrorKind::kRequest, "{}: no tensor \"{}layerL.NAME\" or \"{}logits\" of docs/formats/trace.md",
         checkpoint::printable_path(files.path()), printable(prefix), printable(prefix));
  require_finite(tensors_, config);
}

const DumpTensor* Dump::find(TapPoint point, int64_t layer) const {
  const auto found = tensors_.find(key(point, layer));
  return found == tensors_.end() ? nullptr : &found->second;
}

bool Dump::whole(TapPoint point, int64_t layer) const {
  const DumpTensor* const tensor = find(point, layer);
  return tensor != nullptr && tensor->rows == positions() / tensor->every;
}

}  // namespace fulgurite::audit
