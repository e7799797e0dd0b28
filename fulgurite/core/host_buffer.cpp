#include "fulgurite/core/host_buffer.h"

#include <sys/mman.h>

#include <utility>

#include "fulgurite/core/error.h"

namespace fulgurite {

HostBuffer::HostBuffer(int64_t bytes) : size_(bytes) {
  if (bytes < 0) fail(ErrorKind::kMemory, "a buffer of {} bytes was asked for", bytes);
  if (bytes == 0) return;
  data_ =
      mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (data_ == MAP_FAILED) {
    data_ = nullptr;
    fail(ErrorKind::kMemory, "the system gives no {} bytes of memory", bytes);
  }
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(size_));
}

}  // namespace fulgurite
