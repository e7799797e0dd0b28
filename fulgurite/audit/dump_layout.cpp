#include "fulgurite/audit/dump_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/error.h"
#include "fulgurite/core/fp16.h"

namespace fulgurite::audit {
namespace {

using checkpoint::TensorView;
using Shape = std::vector<int64_t>;

bool integers(DType dtype) { return dtype == DType::kI32 || dtype == DType::kI64; }
bool floats(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF64 || dtype == DType::kF16 || dtype == DType::kBF16;
}

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
  Reading(const checkpoint::TensorFiles& files, const std::string& prefix, const std::string& name)
      : files_(files), prefix_(prefix), name_(name) {}

  Array read(const DumpSource& source, bool indices) const {
    std::vector<Array> parts;
    for (const std::string& from : source.from) parts.push_back(part(from, indices));
    Array array = concatenated(std::move(parts), source.axis);
    array = transposed(std::move(array), source.transpose);
    return with_columns(with_rows(std::move(array), source), source);
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
      wrong_layout(name_, fmt::format("{} dimensions (transpose)", order.size()), array);
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
      if (r >= count) wrong_layout(name_, fmt::format("a row {} (rows)", r), array);
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
      wrong_layout(
          name_, fmt::format("columns [{}, {}) of the last dimension", first, first + source.columns), array);
    Shape shape = array.shape;
    shape.back() = source.columns;
    int64_t at = 0;
    return gathered(array, shape, [&](const Shape&) {
      const int64_t old = at / source.columns * last + first + at % source.columns;
      ++at;
      return old;
    });
  }

  const checkpoint::TensorFiles& files_;
  const std::string& prefix_;
  const std::string& name_;
};

// Pairs that lie as halves become neighbours, or the other way round.
void unpair(Array& array, const std::string& name, const DumpSource::Rope& rope) {
  const int64_t last = array.shape.back(), half = rope.dims / 2;
  if (rope.first + rope.dims > last)
    wrong_layout(name, fmt::format("columns [{}, {}) (rope)", rope.first, rope.first + rope.dims), array);
  std::vector<double> old(static_cast<size_t>(rope.dims));
  for (auto row = array.values.begin() + rope.first; row < array.values.end(); row += last) {
    std::copy_n(row, rope.dims, old.begin());
    for (int64_t i = 0; i < half; ++i) {
      row[rope.halves ? 2 * i : i] = old[static_cast<size_t>(rope.halves ? i : 2 * i)];
      row[rope.halves ? 2 * i + 1 : half + i] = old[static_cast<size_t>(rope.halves ? half + i : 2 * i + 1)];
    }
  }
}

}  // namespace

int64_t product(std::span<const int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Array read_source(const checkpoint::TensorFiles& files, const std::string& prefix, const std::string& name,
                  const DumpSource& source, bool indices) {
  return Reading(files, prefix, name).read(source, indices);
}

void fit(Array& array, const std::vector<int64_t>& row) {
  if (array.shape.size() == row.size() + 2 && array.shape[0] == 1) array.shape.erase(array.shape.begin());
  if (array.shape.empty() || array.width() != product(row)) return;
  array.shape.resize(1);
  array.shape.insert(array.shape.end(), row.begin(), row.end());
}

void arrange_columns(Array& array, const std::string& name, const DumpSource& source) {
  if (source.rope) unpair(array, name, *source.rope);
  if (source.scale != 1.0)
    for (double& value : array.values) value *= source.scale;
}

void wrong_layout(const std::string& name, const std::string& expected, const Array& array) {
  fail(ErrorKind::kRequest, "{}: expected {}, the dump has {}", name, expected,
       checkpoint::describe(array.stored, array.shape));
}

}  // namespace fulgurite::audit
