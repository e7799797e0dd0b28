#pragma once
// A view whose element type is a fact of the plan: activations are fp32, bf16 or fp16 as Numerics::activation
// says, caches and index operands as their knobs say. as<T>() gives the typed view, and T must be the type
// that is there.

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/dtype.h"
#include "fulgurite/core/fp16.h"
#include "fulgurite/core/fp8.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/view.h"

namespace fulgurite {

template <class T>
inline constexpr DType kDTypeOf = DType::kU8;
template <>
inline constexpr DType kDTypeOf<float> = DType::kF32;
template <>
inline constexpr DType kDTypeOf<int32_t> = DType::kI32;
template <>
inline constexpr DType kDTypeOf<bf16> = DType::kBF16;
template <>
inline constexpr DType kDTypeOf<fp16> = DType::kF16;
template <>
inline constexpr DType kDTypeOf<e4m3> = DType::kF8_E4M3;

// Byte is std::byte or, for inputs, const std::byte.
template <class Byte, int Rank>
struct AnyView {
  Byte* data = nullptr;
  DType dtype = DType::kF32;
  std::array<int64_t, Rank> extent{};
  std::array<int64_t, Rank> stride{};  // in elements

  template <class T>
  using Element = std::conditional_t<std::is_const_v<Byte>, const T, T>;

  AnyView() = default;
  template <class T>
  FULGURITE_HOST_DEVICE AnyView(View<T, Rank> view) requires(std::is_const_v<Byte> || !std::is_const_v<T>)
      : data(reinterpret_cast<Byte*>(view.data)),
        dtype(kDTypeOf<std::remove_const_t<T>>),
        extent(view.extent),
        stride(view.stride) {}
  FULGURITE_HOST_DEVICE AnyView(const AnyView<std::byte, Rank>& other) requires(std::is_const_v<Byte>)
      : data(other.data), dtype(other.dtype), extent(other.extent), stride(other.stride) {}
  AnyView(const AnyView&) = default;
  AnyView& operator=(const AnyView&) = default;

  FULGURITE_HOST_DEVICE explicit operator bool() const { return data != nullptr; }

  // Of a type that kDTypeOf names.
  FULGURITE_HOST_DEVICE int64_t element_bytes() const {
    if (dtype == DType::kF32 || dtype == DType::kI32) return 4;
    return dtype == DType::kBF16 || dtype == DType::kF16 ? 2 : 1;
  }

  // The view with the first index fixed.
  FULGURITE_HOST_DEVICE AnyView<Byte, Rank - 1> operator[](int64_t index) const requires(Rank > 1) {
    AnyView<Byte, Rank - 1> part;
    part.data = data + index * stride[0] * element_bytes();
    part.dtype = dtype;
    for (int i = 1; i < Rank; ++i) {
      part.extent[i - 1] = extent[i];
      part.stride[i - 1] = stride[i];
    }
    return part;
  }

  // `count` entries of dimension `dimension`, from `first`.
  FULGURITE_HOST_DEVICE AnyView slice(int dimension, int64_t first, int64_t count) const {
    FULGURITE_ASSERT(first >= 0 && count >= 0 && first + count <= extent[dimension], "[{}, {}) of {}", first,
                     first + count, extent[dimension]);
    AnyView part = *this;
    part.data += first * stride[dimension] * element_bytes();
    part.extent[dimension] = count;
    return part;
  }

  template <class T>
  FULGURITE_HOST_DEVICE View<Element<T>, Rank> as() const {
    FULGURITE_ASSERT(dtype == kDTypeOf<T>, "the view holds {}, {} was asked for", name(dtype),
                     name(kDTypeOf<T>));
    return {reinterpret_cast<Element<T>*>(data), extent, stride};
  }
};

template <int Rank>
using Tensor = AnyView<std::byte, Rank>;
template <int Rank>
using ConstTensor = AnyView<const std::byte, Rank>;

}  // namespace fulgurite
