#include "fulgurite/checkpoint/tensor_view.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>

#include "fulgurite/core/error.h"

namespace fulgurite::checkpoint {
namespace {

static_assert(std::endian::native == std::endian::little,
              "tensors are read in place, and their bytes are little endian");

const std::byte* values_of(const TensorView& tensor, DType expected) {
  if (tensor.dtype != expected)
    fail(ErrorKind::kFile, "tensor \"{}\": expected {}, found {}", printable(tensor.name), name(expected),
         describe(tensor));
  if (!aligned(tensor))
    fail(ErrorKind::kFile, "tensor \"{}\": {} must be aligned to {} bytes, its bytes in the file are not",
         printable(tensor.name), describe(tensor), alignment(expected));
  return tensor.bytes.data();
}

}  // namespace

std::string describe(DType dtype, std::span<const int64_t> shape) {
  return fmt::format("{} [{}]", name(dtype), printable(fmt::format("{}", fmt::join(shape, ", "))));
}

std::string describe(const TensorView& tensor) { return describe(tensor.dtype, tensor.shape); }

int64_t byte_size(DType dtype, std::span<const int64_t> shape, const std::string& what) {
  int64_t total_bits = bits(dtype);
  bool empty = false;
  for (const int64_t extent : shape) {
    if (extent < 0) fail(ErrorKind::kFile, "{}: {} has a negative extent", what, describe(dtype, shape));
    if (extent == 0) empty = true;
    if (extent != 0 && __builtin_mul_overflow(total_bits, extent, &total_bits))
      fail(ErrorKind::kFile, "{}: {} has a size beyond 63 bits", what, describe(dtype, shape));
  }
  if (empty) return 0;
  if (total_bits % 8 != 0)
    fail(ErrorKind::kFile, "{}: {} needs {} bits, not a whole number of bytes", what, describe(dtype, shape),
         total_bits);
  return total_bits / 8;
}

int64_t alignment(DType dtype) { return std::max(1, bits(dtype) / 8); }

bool aligned(const TensorView& tensor) {
  const auto address = std::bit_cast<uintptr_t>(tensor.bytes.data());
  return tensor.bytes.empty() || address % static_cast<uintptr_t>(alignment(tensor.dtype)) == 0;
}

std::span<const float> f32_values(const TensorView& tensor) {
  const std::byte* const data = values_of(tensor, DType::kF32);
  return {reinterpret_cast<const float*>(data), tensor.bytes.size() / sizeof(float)};
}

std::span<const int32_t> i32_values(const TensorView& tensor) {
  const std::byte* const data = values_of(tensor, DType::kI32);
  return {reinterpret_cast<const int32_t*>(data), tensor.bytes.size() / sizeof(int32_t)};
}

}  // namespace fulgurite::checkpoint
