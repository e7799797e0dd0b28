#pragma once
// Owned memory of the host: 64-byte aligned, zero at first, given back at the end of its life. Pages that
// nobody touches take no memory.

#include <cstddef>
#include <cstdint>
#include <span>

namespace fulgurite {

class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(int64_t bytes);  // throws Error{kMemory}
  HostBuffer(HostBuffer&& other) noexcept;
  HostBuffer& operator=(HostBuffer&& other) noexcept;
  ~HostBuffer();

  std::span<std::byte> bytes() const { return {static_cast<std::byte*>(data_), static_cast<size_t>(size_)}; }
  int64_t size() const { return size_; }

 private:
  void* data_ = nullptr;
  int64_t size_ = 0;
};

}  // namespace fulgurite
