#pragma once
// Element types: every dtype of the safetensors format, under the format's own names.
// Source: huggingface/safetensors, safetensors/src/tensor.rs (enum Dtype).

#include <cstdint>
#include <optional>
#include <string_view>

namespace fulgurite {

enum class DType {
  kBool,
  kF4,       // e2m1, two per byte
  kF6_E2M3,  // 6 bits
  kF6_E3M2,  // 6 bits
  kU8,
  kI8,
  kF8_E5M2,
  kF8_E4M3,  // e4m3fn: no infinity, NaN = 0x7F and 0xFF
  kF8_E8M0,  // an exponent alone: 2^(code - 127), NaN = 0xFF
  kF8_E4M3FNUZ,
  kF8_E5M2FNUZ,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kC64,
  kF64,
  kI64,
  kU64,
};

int bits(DType dtype);
std::string_view name(DType dtype);
std::optional<DType> dtype_from_name(std::string_view name);

}  // namespace fulgurite
