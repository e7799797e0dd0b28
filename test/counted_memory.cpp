#include "test/counted_memory.h"

#include <features.h>

#if defined(__GLIBC__)
#include <malloc.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <atomic>
#include <cstddef>

namespace {
std::atomic<int64_t> allocations{0}, held{0}, most{0};
}

namespace fulgurite::test {

CountedMemory counted_memory() { return {allocations.load(), held.load(), most.load()}; }
void begin_most() { most.store(held.load()); }

}  // namespace fulgurite::test

#if FULGURITE_COUNTS_MEMORY
namespace {

void hold(int64_t bytes) {
  const int64_t now = held.fetch_add(bytes, std::memory_order_relaxed) + bytes;
  int64_t before = most.load(std::memory_order_relaxed);
  while (now > before && !most.compare_exchange_weak(before, now, std::memory_order_relaxed)) {
  }
}

// Mappings are whole pages, whatever length is asked for.
int64_t paged(size_t length) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return static_cast<int64_t>((length + page - 1) / page * page);
}

void* counted(void* block) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (block != nullptr) hold(static_cast<int64_t>(malloc_usable_size(block)));
  return block;
}

}  // namespace

// glibc's own allocator behind counting entry points.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void __libc_free(void*);
void* malloc(size_t size) { return counted(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return counted(__libc_calloc(count, size)); }
void* realloc(void* pointer, size_t size) {
  const int64_t before = pointer == nullptr ? 0 : static_cast<int64_t>(malloc_usable_size(pointer));
  void* const block = counted(__libc_realloc(pointer, size));
  if (block != nullptr || size == 0) hold(-before);
  return block;
}
void* aligned_alloc(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
void* memalign(size_t alignment, size_t size) { return counted(__libc_memalign(alignment, size)); }
int posix_memalign(void** pointer, size_t alignment, size_t size) {
  *pointer = counted(__libc_memalign(alignment, size));
  return *pointer == nullptr ? 12 : 0;  // ENOMEM
}
void free(void* pointer) {
  if (pointer == nullptr) return;
  hold(-static_cast<int64_t>(malloc_usable_size(pointer)));
  __libc_free(pointer);
}
void* mmap(void* address, size_t length, int protection, int flags, int file, off_t offset) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  void* const mapped =
      reinterpret_cast<void*>(syscall(SYS_mmap, address, length, protection, flags, file, offset));
  if (mapped != MAP_FAILED) hold(paged(length));
  return mapped;
}
int munmap(void* address, size_t length) {
  const auto failed = static_cast<int>(syscall(SYS_munmap, address, length));
  if (failed == 0) hold(-paged(length));
  return failed;
}
}
#endif
