#pragma once
// What audits of operations do with tensors of any element type: own one, copy one, read one as fp32.

#include <vector>

#include "fulgurite/core/element.h"

namespace fulgurite::audit {

// A contiguous tensor that owns its bytes.
template <int Rank>
class OwnedTensor {
 public:
  OwnedTensor(DType dtype, std::array<int64_t, Rank> extent) {
    const View<std::byte, Rank> shape(nullptr, extent);
    bytes_.resize(static_cast<size_t>(shape.size() * bits(dtype) / 8));
    view_.data = bytes_.data();
    view_.dtype = dtype;
    view_.extent = shape.extent;
    view_.stride = shape.stride;
  }
  OwnedTensor(OwnedTensor&&) = default;
  OwnedTensor& operator=(OwnedTensor&&) = default;

  const Tensor<Rank>& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  Tensor<Rank> view_;
};

// Calls visit(index...) for every element, in row-major order.
template <int Rank, class Visit, class... Index>
void for_each_index(const std::array<int64_t, Rank>& extent, const Visit& visit, Index... index) {
  if constexpr (sizeof...(Index) == Rank) {
    visit(index...);
  } else {
    for (int64_t i = 0; i < extent[sizeof...(Index)]; ++i) for_each_index<Rank>(extent, visit, index..., i);
  }
}

// f32, bf16 or fp16, strides free, row-major.
template <int Rank>
std::vector<float> values(const ConstTensor<Rank>& tensor) {
  std::vector<float> out;
  for_each_index<Rank>(tensor.extent, [&](auto... index) { out.push_back(load(tensor, index...)); });
  return out;
}
template <int Rank>
std::vector<float> values(const Tensor<Rank>& tensor) {
  return values(ConstTensor<Rank>(tensor));
}

template <int Rank>
OwnedTensor<Rank> copy_of(const ConstTensor<Rank>& tensor) {
  OwnedTensor<Rank> copy(tensor.dtype, tensor.extent);
  for_each_index<Rank>(tensor.extent,
                       [&](auto... index) { store(copy.view(), load(tensor, index...), index...); });
  return copy;
}

}  // namespace fulgurite::audit
