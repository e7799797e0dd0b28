#pragma once
// One element of a tensor whose type is a fact of the plan (f32, bf16 or fp16): read as fp32, written with the one
// rounding that its type makes. What references are written with.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/host_device.h"

namespace fulgurite {

template <class Byte, int Rank, class... Index>
FULGURITE_HOST_DEVICE float load(const AnyView<Byte, Rank>& tensor, Index... index) {
  if (tensor.dtype == DType::kBF16) return to_float(tensor.template as<bf16>()(index...));
  if (tensor.dtype == DType::kF16) return to_float(tensor.template as<fp16>()(index...));
  return tensor.template as<float>()(index...);
}

template <int Rank, class... Index>
FULGURITE_HOST_DEVICE void store(const Tensor<Rank>& tensor, float value, Index... index) {
  if (tensor.dtype == DType::kBF16)
    tensor.template as<bf16>()(index...) = to_bf16(value);
  else if (tensor.dtype == DType::kF16)
    tensor.template as<fp16>()(index...) = to_fp16(value);
  else
    tensor.template as<float>()(index...) = value;
}

// value, rounded as an activation is stored.
FULGURITE_HOST_DEVICE inline float round_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return round_to_bf16(value);
  return dtype == DType::kF16 ? round_to_fp16(value) : value;
}

}  // namespace fulgurite
