#include "fulgurite/core/host_buffer.h"

#include <sys/mman.h>
#include <unistd.h>

#include <utility>

#include "fulgurite/core/error.h"

namespace fulgurite {
namespace {

constexpr size_t kLargePage = size_t{2} << 20;
constexpr size_t kFewestLarge = 4 * kLargePage;  // for less, what a last page wastes is much

void* map(size_t bytes) {
  void* const data = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return data == MAP_FAILED ? nullptr : data;
}

// Whole large pages begin where an address is a multiple of their size: what is mapped before and behind is
// given back. A system without large pages refuses the advice, and nothing is lost.
void* map_large(size_t bytes) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const size_t used = (bytes + page - 1) / page * page;
  auto* const mapped = static_cast<std::byte*>(map(used + kLargePage));
  if (mapped == nullptr) return nullptr;
  const size_t before = (kLargePage - reinterpret_cast<uintptr_t>(mapped) % kLargePage) % kLargePage;
  if (before > 0) munmap(mapped, before);
  if (before < kLargePage) munmap(mapped + before + used, kLargePage - before);
#if defined(MADV_HUGEPAGE)
  madvise(mapped + before, used, MADV_HUGEPAGE);
#endif
  return mapped + before;
}

void* map_pages(int64_t bytes, Pages pages) {
  const auto count = static_cast<size_t>(bytes);
  void* const data = pages == Pages::kLarge && count >= kFewestLarge ? map_large(count) : map(count);
  if (data == nullptr) fail(ErrorKind::kMemory, "the system gives no {} bytes of memory", bytes);
  return data;
}

}  // namespace

void* map_host_pages(int64_t bytes) { return map_pages(bytes, Pages::kLarge); }
void unmap_host_pages(void* data, int64_t bytes) { munmap(data, static_cast<size_t>(bytes)); }

HostBuffer::HostBuffer(int64_t bytes, Pages pages) : size_(bytes) {
  if (bytes < 0) fail(ErrorKind::kMemory, "a buffer of {} bytes was asked for", bytes);
  if (bytes > 0) data_ = map_pages(bytes, pages);
}

HostBuffer::HostBuffer(HostBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

HostBuffer& HostBuffer::operator=(HostBuffer&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  return *this;
}

HostBuffer::~HostBuffer() {
  if (data_ != nullptr) unmap_host_pages(data_, size_);
}

}  // namespace fulgurite
