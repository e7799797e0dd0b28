#pragma once
// A tensor as a checkpoint knows it: name, type, shape, and a view of bytes that belong to someone else (the
// mapping of a file, or whoever calls the writer). Order is C, bytes are little endian.
//
// A file promises bytes, not alignment: a header of odd length moves all that follows. Who wants a pointer to
// elements asks aligned() first, or takes the values through the functions below.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "fulgurite/core/dtype.h"

namespace fulgurite::checkpoint {

struct TensorView {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;  // empty: a scalar
  std::span<const std::byte> bytes;
};

// "F32 [3, 9]"
std::string describe(DType dtype, std::span<const int64_t> shape);
std::string describe(const TensorView& tensor);

// Bytes that a tensor takes. Throws Error{kFile} that begins with `what` for a negative extent, for elements
// of less than a byte that fill no whole number of bytes, and for a product of bits and extents beyond 63
// bits. Extents of 0 are left out of that product: strides are computed from the other ones too.
int64_t byte_size(DType dtype, std::span<const int64_t> shape, const std::string& what);

// Bytes that the address of an element must be a multiple of; 1 for elements of less than a byte.
int64_t alignment(DType dtype);

// May the bytes be read through a pointer to elements? An empty tensor may.
bool aligned(const TensorView& tensor);

// All elements in C order. Throws Error{kFile} for another dtype or misaligned bytes.
std::span<const float> f32_values(const TensorView& tensor);
std::span<const int32_t> i32_values(const TensorView& tensor);

}  // namespace fulgurite::checkpoint
