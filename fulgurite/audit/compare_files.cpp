#include "fulgurite/audit/compare_files.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>
#include <set>

#include "fulgurite/audit/compare.h"
#include "fulgurite/audit/trace.h"
#include "fulgurite/core/bf16.h"
#include "fulgurite/core/fp16.h"

namespace fulgurite::audit {
namespace {

using checkpoint::TensorView;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One element as a double; only types that comparable() names.
double value_at(const TensorView& tensor, int64_t i) {
  const std::byte* const at = tensor.bytes.data() + i * (bits(tensor.dtype) / 8);
  const auto read = [&](auto value) {
    std::memcpy(&value, at, sizeof value);
    return value;
  };
  switch (tensor.dtype) {
    case DType::kF64:
      return read(double{});
    case DType::kBF16:
      return to_float(read(bf16{}));
    case DType::kF16:
      return to_float(read(fp16{}));
    case DType::kI32:
      return read(int32_t{});
    case DType::kI64:
      return static_cast<double>(read(int64_t{}));
    default:
      return read(float{});
  }
}

bool integers(DType dtype) { return dtype == DType::kI32 || dtype == DType::kI64; }
bool comparable(DType dtype) {
  return integers(dtype) || dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 ||
         dtype == DType::kF64;
}

std::vector<int64_t> place_of(int64_t flat, const std::vector<int64_t>& shape) {
  std::vector<int64_t> place(shape.size());
  for (size_t i = shape.size(); i-- > 0;) {
    place[i] = flat % shape[i];
    flat /= shape[i];
  }
  return place;
}

// |difference| / |expected|; a difference from nothing is infinite.
double relative(long double squared_difference, long double squared_expected) {
  if (squared_difference == 0.0) return 0.0;
  return squared_expected == 0.0 ? kInfinity
                                 : static_cast<double>(std::sqrt(squared_difference / squared_expected));
}

void compare_values(const TensorView& a, const TensorView& b, int64_t rows, int64_t width,
                    TensorDifference& d) {
  // Long double: squares of any double are in its range.
  long double all_difference = 0.0, all_expected = 0.0;
  for (int64_t r = 0; r < rows; ++r) {
    long double row_difference = 0.0, row_expected = 0.0;
    for (int64_t i = r * width; i < (r + 1) * width; ++i) {
      const double actual = value_at(a, i), expected = value_at(b, i);
      if (!same_mask(actual, expected)) d.mask_mismatches += 1;
      if (!std::isfinite(actual) || !std::isfinite(expected)) continue;
      const double difference = std::abs(actual - expected);
      row_difference += static_cast<long double>(difference) * difference;
      row_expected += static_cast<long double>(expected) * expected;
      if (difference > d.largest || d.largest_at.empty()) {
        d.largest = difference;
        d.largest_at = place_of(i, b.shape);
      }
    }
    const double row = relative(row_difference, row_expected);
    if (!(row <= d.worst_row_l2)) {
      d.worst_row_l2 = row;
      d.worst_row = r;
    }
    all_difference += row_difference;
    all_expected += row_expected;
  }
  d.relative_l2 = relative(all_difference, all_expected);
}

// The members of a row; a set that names one twice is noted as a problem.
std::set<int64_t> members(const TensorView& tensor, int64_t row, int64_t width, TensorDifference& d) {
  std::set<int64_t> set;
  for (int64_t i = row * width; i < (row + 1) * width; ++i) {
    const auto value = static_cast<int64_t>(value_at(tensor, i));
    if (value != -1 && !set.insert(value).second)
      d.problem = fmt::format("row {} names {} twice", row, value);
  }
  return set;
}

void compare_sets(const TensorView& a, const TensorView& b, int64_t rows, int64_t width,
                  TensorDifference& d) {
  d.indices = true;
  for (int64_t r = 0; r < rows; ++r) {
    const std::set<int64_t> left = members(a, r, width, d), right = members(b, r, width, d);
    const auto shared = std::ranges::count_if(left, [&](int64_t id) { return right.contains(id); });
    const size_t larger = std::max(left.size(), right.size());
    const double overlap = larger == 0 ? 1.0 : static_cast<double>(shared) / static_cast<double>(larger);
    d.rows_that_differ += overlap < 1.0;
    if (overlap < d.smallest_overlap) {
      d.smallest_overlap = overlap;
      d.worst_row = r;
    }
  }
}

// The last `rows` of a tensor.
TensorView tail(const TensorView& tensor, int64_t rows) {
  if (tensor.shape.empty() || tensor.shape[0] <= rows) return tensor;
  TensorView part = tensor;
  const size_t row_bytes = tensor.bytes.size() / static_cast<size_t>(tensor.shape[0]);
  part.shape[0] = rows;
  part.bytes = tensor.bytes.last(row_bytes * static_cast<size_t>(rows));
  return part;
}

bool same_rows(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
  return !a.empty() && !b.empty() && std::equal(a.begin() + 1, a.end(), b.begin() + 1, b.end());
}

// Rows are the last positions: where one file has more of them, those that both have are compared. Entries are
// no positions.
TensorDifference compare_tensors(const std::string& name, const TensorView& whole_a,
                                 const TensorView& whole_b) {
  const bool positions = !name.ends_with(".entries") && same_rows(whole_a.shape, whole_b.shape);
  const TensorView a = positions ? tail(whole_a, whole_b.shape[0]) : whole_a;
  const TensorView b = positions ? tail(whole_b, whole_a.shape[0]) : whole_b;
  TensorDifference d;
  d.name = name;
  for (const DType dtype : {a.dtype, b.dtype}) {
    if (comparable(dtype)) continue;
    d.problem = fmt::format("{} cannot be compared", fulgurite::name(dtype));
    return d;
  }
  if (a.shape != b.shape || integers(a.dtype) != integers(b.dtype)) {
    d.problem = fmt::format("{} against {}", checkpoint::describe(a), checkpoint::describe(b));
    return d;
  }
  int64_t elements = 1;
  for (const int64_t extent : b.shape) elements *= extent;
  if (elements == 0) return d;
  d.rows = b.shape.empty() ? 1 : b.shape[0];
  const int64_t width = elements / d.rows;
  if (integers(a.dtype))
    compare_sets(a, b, d.rows, width, d);
  else
    compare_values(a, b, d.rows, width, d);
  return d;
}

std::map<std::string, const TensorView*> named(const checkpoint::SafetensorsFile& file,
                                               const std::string& prefix) {
  std::map<std::string, const TensorView*> tensors;
  for (const TensorView& tensor : file.tensors())
    if (tensor.name.starts_with(prefix)) tensors[tensor.name.substr(prefix.size())] = &tensor;
  return tensors;
}

}  // namespace

double TensorDifference::distance() const {
  if (!problem.empty() || mask_mismatches > 0) return kInfinity;
  return indices ? 1.0 - smallest_overlap : worst_row_l2;
}

const TensorDifference* Comparison::first_beyond(double tolerance) const {
  for (const TensorDifference& tensor : tensors)
    if (!(tensor.distance() <= tolerance)) return &tensor;
  return nullptr;
}

Comparison compare_files(const checkpoint::SafetensorsFile& a, const std::string& prefix_a,
                         const checkpoint::SafetensorsFile& b, const std::string& prefix_b) {
  const auto left = named(a, prefix_a), right = named(b, prefix_b);
  Comparison comparison;
  std::vector<std::string> shared;
  for (const auto& [name, tensor] : left) (right.contains(name) ? shared : comparison.only_a).push_back(name);
  for (const auto& [name, tensor] : right)
    if (!left.contains(name)) comparison.only_b.push_back(name);
  std::ranges::sort(shared, computed_before);
  for (const std::string& name : shared)
    comparison.tensors.push_back(compare_tensors(name, *left.at(name), *right.at(name)));
  return comparison;
}

}  // namespace fulgurite::audit
