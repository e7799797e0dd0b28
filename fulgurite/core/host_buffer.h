#pragma once
// Owned memory of the host: 64-byte aligned, zero at first, given back at the end of its life. Pages that
// nobody touches take no memory. Of some MiB or more it lies in pages of 2 MiB where the system has them
// (rows far apart, as attention reads them, otherwise cost a walk of the page tables each).

#include <cstddef>
#include <cstdint>
#include <span>

namespace fulgurite {

enum class Pages { kSmall, kLarge };

// As a kind of memory allocates it (core/memory.h): in large pages where it pays.
void* map_host_pages(int64_t bytes);
void unmap_host_pages(void* data, int64_t bytes);

class HostBuffer {
 public:
  HostBuffer() = default;
  explicit HostBuffer(int64_t bytes, Pages pages = Pages::kLarge);  // throws Error{kMemory}
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
