#pragma once
// What audits of operations do with tensors of any element type: own one, copy one, read one as fp32.

#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/memory.h"

namespace fulgurite::audit {

// While it lives, tensors that this thread makes lie in `memory`, of which the host reads every byte: a GPU reads
// no memory but its own and what it shares.
class TensorMemory {
 public:
  explicit TensorMemory(const Memory& memory) : before_(current_) { current_ = &memory; }
  TensorMemory(const TensorMemory&) = delete;
  TensorMemory& operator=(const TensorMemory&) = delete;
  ~TensorMemory() { current_ = before_; }
  static const Memory* current() { return current_; }

 private:
  static inline thread_local const Memory* current_ = nullptr;  // nullptr: the heap
  const Memory* before_;
};

// Bytes of the heap, or of the memory in force.
class TensorBytes {
 public:
  explicit TensorBytes(int64_t bytes) {
    if (TensorMemory::current() != nullptr)
      buffer_ = Buffer(*TensorMemory::current(), bytes);
    else
      heap_.resize(static_cast<size_t>(bytes));
  }
  std::byte* data() { return heap_.empty() ? buffer_.data() : heap_.data(); }

 private:
  std::vector<std::byte> heap_;
  Buffer buffer_;
};

// A contiguous tensor that owns its bytes.
template <int Rank>
class OwnedTensor {
 public:
  OwnedTensor(DType dtype, std::array<int64_t, Rank> extent)
      : bytes_(View<std::byte, Rank>(nullptr, extent).size() * bits(dtype) / 8) {
    const View<std::byte, Rank> shape(nullptr, extent);
    view_.data = bytes_.data();
    view_.dtype = dtype;
    view_.extent = shape.extent;
    view_.stride = shape.stride;
  }
  OwnedTensor(OwnedTensor&&) = default;
  OwnedTensor& operator=(OwnedTensor&&) = default;

  const Tensor<Rank>& view() const { return view_; }

 private:
  TensorBytes bytes_;
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
