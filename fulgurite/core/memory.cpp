#include "fulgurite/core/memory.h"

#include <cstring>
#include <utility>

#include "fulgurite/core/error.h"
#include "fulgurite/core/host_buffer.h"

namespace fulgurite {
namespace {

void copy_bytes(void* to, const void* from, int64_t bytes, void*) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void clear_bytes(void* at, int64_t bytes, void*) { std::memset(at, 0, static_cast<size_t>(bytes)); }

void gather_rows(void* to, const void* from, const int32_t* rows, int64_t count, int64_t row_bytes, void*) {
  for (int64_t i = 0; i < count; ++i)
    std::memcpy(static_cast<std::byte*>(to) + i * row_bytes,
                static_cast<const std::byte*>(from) + rows[i] * row_bytes, static_cast<size_t>(row_bytes));
}

}  // namespace

const Memory kHostMemory{"host",     true,       map_host_pages, unmap_host_pages, copy_bytes,
                         copy_bytes, copy_bytes, clear_bytes,    gather_rows};

Buffer::Buffer(const Memory& memory, int64_t bytes) : memory_(&memory), size_(bytes) {
  if (bytes < 0) fail(ErrorKind::kMemory, "a buffer of {} bytes was asked for", bytes);
  if (bytes > 0) data_ = static_cast<std::byte*>(memory.allocate(bytes));
}

Buffer::Buffer(Buffer&& other) noexcept
    : memory_(other.memory_),
      data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) memory_->release(data_, size_);
}

}  // namespace fulgurite
