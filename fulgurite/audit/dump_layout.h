#pragma once
// From the layout of another engine's tensor to ours, as a map says (dump_map.h).

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/audit/dump_map.h"
#include "fulgurite/checkpoint/tensor_files.h"

namespace fulgurite::audit {

int64_t product(std::span<const int64_t> shape);

// A tensor on its way; every value as a double.
struct Array {
  std::vector<int64_t> shape;
  std::vector<double> values;
  DType stored = DType::kF32;

  int64_t width() const { return shape.empty() ? 1 : product(std::span(shape).subspan(1)); }
};

// What the source names, put together, transposed, its rows and columns chosen; `name` is ours, for messages.
// Throws Error{kRequest} for what is missing, of another type, or cannot be laid out so.
Array read_source(const checkpoint::TensorFiles& files, const std::string& prefix, const std::string& name,
                  const DumpSource& source, bool indices);

// [1, rows, ...] loses its first dimension; a row of as many elements in other dimensions becomes `row`.
void fit(Array& array, const std::vector<int64_t>& row);

// Pairs of RoPE and the scale, of an array in our shape.
void arrange_columns(Array& array, const std::string& name, const DumpSource& source);

[[noreturn]] void wrong_layout(const std::string& name, const std::string& expected, const Array& array);

}  // namespace fulgurite::audit
