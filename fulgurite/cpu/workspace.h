#pragma once
// Cuts a workspace into arrays, each 64-byte aligned. The same cuts from no memory (nullptr) count the bytes,
// so that an operation says once what it needs.

#include <cstddef>
#include <cstdint>

namespace fulgurite::cpu {

class Cutter {
 public:
  explicit Cutter(std::byte* base) : base_(reinterpret_cast<uintptr_t>(base)) {}

  template <class T>
  T* take(int64_t count) {
    const uintptr_t at = base_ + static_cast<uintptr_t>(bytes_);
    bytes_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return reinterpret_cast<T*>(at);
  }
  int64_t bytes() const { return bytes_; }

 private:
  uintptr_t base_;
  int64_t bytes_ = 0;
};

}  // namespace fulgurite::cpu
