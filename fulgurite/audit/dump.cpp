#include "fulgurite/audit/dump.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <optional>
#include <set>

#include "fulgurite/audit/trace.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/fp16.h"

namespace fulgurite::audit {
namespace {

using checkpoint::TensorView;
using execute::TapPoint;
using Shape = std::vector<int64_t>;

int64_t product(std::span<const int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

bool holds_indices(TapPoint point) { return point == TapPoint::kTopk || point == TapPoint::kExpertIds; }
bool integers(DType dtype) { return dtype == DType::kI32 || dtype == DType::kI64; }
bool floats(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 || dtype == DType::kBF16;
}

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

// A tensor on its way from their layout to ours; every value as a double.
struct Array {
  Shape shape;
  std::vector<double> values;
  DType stored = DType::kF32;

  int64_t width() const { return shape.empty() ? 1 : product(std::span(shape).subspan(1)); }
};

template <class T>
void widen(const TensorView& tensor, std::vector<double>& to) {
  for (size_t at = 0; at < tensor.bytes.size(); at += sizeof(T)) {
    T value;
    std::memcpy(&value, tensor.bytes.data() + at, sizeof value);
    if constexpr (std::is_same_v<T, bf16> || std::is_same_v<T, fp16>)
      to.push_back(to_float(value));
    else
      to.push_back(static_cast<double>(value));
  }
}

Array array_of(const TensorView& tensor) {
  Array array{tensor.shape, {}, tensor.dtype};
  array.values.reserve(static_cast<size_t>(product(tensor.shape)));
  switch (tensor.dtype) {
    case DType::kF32:
      widen<float>(tensor, array.values);
      break;
    case DType::kF64:
      widen<double>(tensor, array.values);
      break;
    case DType::kF16:
      widen<fp16>(tensor, array.values);
      break;
    case DType::kBF16:
      widen<bf16>(tensor, array.values);
      break;
    case DType::kI32:
      widen<int32_t>(tensor, array.values);
      break;
    case DType::kI64:
      widen<int64_t>(tensor, array.values);
      break;
    default:
      break;
  }
  return array;
}

// element(index) of the new array is value(old index), index by index.
template <class Old>
Array gathered(const Array& from, Shape shape, const Old& old_of) {
  Array to{std::move(shape), {}, from.stored};
  const auto size = static_cast<size_t>(product(to.shape));
  to.values.reserve(size);
  Shape index(to.shape.size(), 0);
  for (size_t i = 0; i < size; ++i) {
    to.values.push_back(from.values[static_cast<size_t>(old_of(index))]);
    for (size_t d = index.size(); d-- > 0;) {
      if (++index[d] < to.shape[d]) break;
      index[d] = 0;
    }
  }
  return to;
}

// Reads one tensor of ours from their files.
class Reading {
 public:
  Reading(const checkpoint::TensorFiles& files, const std::string& prefix, std::string name)
      : files_(files), prefix_(prefix), name_(std::move(name)) {}

  Array read(const DumpSource& source, bool indices) const {
    std::vector<Array> parts;
    for (const std::string& from : source.from) parts.push_back(part(from, indices));
    Array array = concatenated(std::move(parts), source.axis);
    array = transposed(std::move(array), source.transpose);
    return with_columns(with_rows(std::move(array), source), source);
  }

  void arrange_columns(Array& array, const DumpSource& source) const {
    if (source.rope) unpair(array, *source.rope);
    if (source.scale != 1.0)
      for (double& value : array.values) value *= source.scale;
  }

  [[noreturn]] void wrong(const std::string& expected, const Array& array) const {
    fail(ErrorKind::kRequest, "{}: expected {}, the dump has {}", name_, expected,
         checkpoint::describe(array.stored, array.shape));
  }

 private:
  Array part(const std::string& from, bool indices) const {
    const TensorView* const tensor = files_.find(prefix_ + from);
    if (tensor == nullptr)
      fail(ErrorKind::kRequest, "{}: the dump has no tensor \"{}\"", name_, printable(prefix_ + from));
    if (indices ? !integers(tensor->dtype) : !floats(tensor->dtype))
      fail(ErrorKind::kRequest, "{}: expected {}, the dump has {} (\"{}\")", name_,
           indices ? "I32 or I64" : "F32, F64, F16 or BF16", checkpoint::describe(*tensor),
           printable(tensor->name));
    return array_of(*tensor);
  }

  Array concatenated(std::vector<Array> parts, int64_t axis) const {
    if (parts.size() == 1) return std::move(parts.front());
    const auto at = static_cast<size_t>(axis);
    Shape shape = parts.front().shape;
    int64_t extent = 0;
    for (const Array& part : parts) {
      Shape rest = part.shape;
      if (at < rest.size() && rest.size() == shape.size()) rest[at] = shape[at];
      if (at >= shape.size() || rest != shape)
        fail(ErrorKind::kRequest, "{}: {} and {} cannot stand side by side along dimension {}", name_,
             checkpoint::describe(parts.front().stored, parts.front().shape),
             checkpoint::describe(part.stored, part.shape), axis);
      extent += part.shape[at];
    }
    Array all{shape, {}, parts.front().stored};
    all.shape[at] = extent;
    const int64_t outer = product(std::span(shape).first(at)),
                  inner = product(std::span(shape).subspan(at + 1));
    for (int64_t o = 0; o < outer; ++o)
      for (const Array& part : parts) {
        const int64_t length = part.shape[at] * inner;
        all.values.insert(all.values.end(), part.values.begin() + o * length,
                          part.values.begin() + (o + 1) * length);
      }
    return all;
  }

  Array transposed(Array array, const std::vector<int64_t>& order) const {
    if (order.empty()) return array;
    if (order.size() != array.shape.size())
      wrong(fmt::format("{} dimensions (transpose)", order.size()), array);
    Shape shape, stride(order.size());
    std::vector<int64_t> old(order.size(), 1);
    for (size_t d = order.size() - 1; d-- > 0;) old[d] = old[d + 1] * array.shape[d + 1];
    for (size_t d = 0; d < order.size(); ++d) {
      shape.push_back(array.shape[static_cast<size_t>(order[d])]);
      stride[d] = old[static_cast<size_t>(order[d])];
    }
    return gathered(array, shape, [&](const Shape& index) {
      return std::inner_product(index.begin(), index.end(), stride.begin(), int64_t{0});
    });
  }

  Array with_rows(Array array, const DumpSource& source) const {
    std::vector<int64_t> rows = source.rows;
    const int64_t count = array.shape.empty() ? 0 : array.shape[0];
    if (source.reversed)
      for (int64_t r = count - 1; r >= 0; --r) rows.push_back(r);
    if (rows.empty()) return array;
    for (const int64_t r : rows)
      if (r >= count) wrong(fmt::format("a row {} (rows)", r), array);
    Array to{array.shape, {}, array.stored};
    to.shape[0] = std::ssize(rows);
    const int64_t width = array.width();
    for (const int64_t r : rows)
      to.values.insert(to.values.end(), array.values.begin() + r * width,
                       array.values.begin() + (r + 1) * width);
    return to;
  }

  Array with_columns(Array array, const DumpSource& source) const {
    if (!source.first_column) return array;
    const int64_t first = *source.first_column, last = array.shape.empty() ? 0 : array.shape.back();
    if (first + source.columns > last)
      wrong(fmt::format("columns [{}, {}) of the last dimension", first, first + source.columns), array);
    Shape shape = array.shape;
    shape.back() = source.columns;
    int64_t at = 0;
    return gathered(array, shape, [&](const Shape&) {
      const int64_t old = at / source.columns * last + first + at % source.columns;
      ++at;
      return old;
    });
  }

  // Pairs that lie as halves become neighbours, or the other way round.
  void unpair(Array& array, const DumpSource::Rope& rope) const {
    const int64_t last = array.shape.back(), half = rope.dims / 2;
    if (rope.first + rope.dims > last)
      wrong(fmt::format("columns [{}, {}) (rope)", rope.first, rope.first + rope.dims), array);
    std::vector<double> old(static_cast<size_t>(rope.dims));
    for (auto row = array.values.begin() + rope.first; row < array.values.end(); row += last) {
      std::copy_n(row, rope.dims, old.begin());
      for (int64_t i = 0; i < half; ++i) {
        row[rope.halves ? 2 * i : i] = old[static_cast<size_t>(rope.halves ? i : 2 * i)];
        row[rope.halves ? 2 * i + 1 : half + i] =
            old[static_cast<size_t>(rope.halves ? half + i : 2 * i + 1)];
      }
    }
  }

  const checkpoint::TensorFiles& files_;
  const std::string& prefix_;
  std::string name_;
};

// [1, rows, ...] loses its first dimension; a row of as many elements in other dimensions becomes ours.
void fit(Array& array, const Shape& row) {
  if (array.shape.size() == row.size() + 2 && array.shape[0] == 1) array.shape.erase(array.shape.begin());
  if (array.shape.empty() || array.width() != product(row)) return;
  array.shape.resize(1);
  array.shape.insert(array.shape.end(), row.begin(), row.end());
}

// Rows of a selection may be wider or narrower than ours.
bool fits(TapPoint point, const Array& array, const Shape& row, int64_t most_rows, bool of_entries) {
  if (array.shape.size() != row.size() + 1 || array.shape[0] < 1 || array.shape[0] > most_rows) return false;
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
    ids_ = ids_of(Reading(files, prefix, "input_ids").read(own->second, true), "input_ids");
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
    const Reading reading(files, prefix, name);
    Array array = reading.read(source, holds_indices(point));
    fit(array, *row);
    const int64_t every = every_of(point, layer, config), most = positions() / every;
    if (!fits(point, array, *row, most, every > 1))
      reading.wrong(fmt::format("{} [{}{}, {}]", holds_indices(point) ? "I32" : "F32",
                                every > 1 ? "" : "1 to ", most, fmt::join(*row, ", ")),
                    array);
    reading.arrange_columns(array, source);
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
