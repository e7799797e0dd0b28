#pragma once
// A view: pointer, extents, strides in elements. It owns nothing, is copied by value, and its constness is
// that of T. Index 0 is the slowest. Element access is bounds-checked in debug builds.

#include <array>
#include <cstdint>
#include <type_traits>

#include "fulgurite/core/assert.h"
#include "fulgurite/core/host_device.h"

namespace fulgurite {

template <class T, int Rank>
struct View {
  T* data = nullptr;
  std::array<int64_t, Rank> extent{};
  std::array<int64_t, Rank> stride{};

  View() = default;
  FULGURITE_HOST_DEVICE View(T* pointer, std::array<int64_t, Rank> extents) : data(pointer), extent(extents) {
    int64_t step = 1;
    for (int i = Rank - 1; i >= 0; --i) {
      stride[i] = step;
      step *= extent[i];
    }
  }
  FULGURITE_HOST_DEVICE View(T* pointer, std::array<int64_t, Rank> extents, std::array<int64_t, Rank> strides)
      : data(pointer), extent(extents), stride(strides) {}

  // View<T> converts to View<const T>.
  FULGURITE_HOST_DEVICE operator View<const T, Rank>() const requires(!std::is_const_v<T>) {
    return {data, extent, stride};
  }

  FULGURITE_HOST_DEVICE explicit operator bool() const { return data != nullptr; }

  FULGURITE_HOST_DEVICE int64_t size() const {
    int64_t count = 1;
    for (const int64_t n : extent) count *= n;
    return count;
  }
  template <class... Index>
  FULGURITE_HOST_DEVICE T& operator()(Index... index) const {
    static_assert(sizeof...(Index) == Rank);
    const std::array<int64_t, Rank> at{static_cast<int64_t>(index)...};
    int64_t offset = 0;
    for (int i = 0; i < Rank; ++i) {
#ifndef NDEBUG
      FULGURITE_ASSERT(at[i] >= 0 && at[i] < extent[i], "index {} of dimension {} with extent {}", at[i], i,
                       extent[i]);
#endif
      offset += at[i] * stride[i];
    }
    return data[offset];
  }

  // The view with the first index fixed.
  FULGURITE_HOST_DEVICE View<T, Rank - 1> operator[](int64_t index) const requires(Rank > 1) {
#ifndef NDEBUG
    FULGURITE_ASSERT(index >= 0 && index < extent[0], "row {} of {}", index, extent[0]);
#endif
    View<T, Rank - 1> row;
    row.data = data + index * stride[0];
    for (int i = 1; i < Rank; ++i) {
      row.extent[i - 1] = extent[i];
      row.stride[i - 1] = stride[i];
    }
    return row;
  }

  // `count` entries of dimension `dimension`, from `first`.
  FULGURITE_HOST_DEVICE View slice(int dimension, int64_t first, int64_t count) const {
    FULGURITE_ASSERT(first >= 0 && count >= 0 && first + count <= extent[dimension], "[{}, {}) of {}", first,
                     first + count, extent[dimension]);
    View part = *this;
    part.data += first * stride[dimension];
    part.extent[dimension] = count;
    return part;
  }
};

}  // namespace fulgurite
