// Session::forward allocates nothing: every call of the C allocator and every mapping in this process is
// counted.

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "test/tiny_model.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
#define FULGURITE_COUNTS_ALLOCATIONS 0
#else
#define FULGURITE_COUNTS_ALLOCATIONS 1

namespace {
std::atomic<int64_t> allocations{0};
}

// glibc's own allocator behind counting entry points; operator new comes here as well.
extern "C" {
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);
void* malloc(size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_calloc(count, size);
}
void* realloc(void* pointer, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_realloc(pointer, size);
}
void* aligned_alloc(size_t alignment, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return __libc_memalign(alignment, size);
}
void* mmap(void* address, size_t length, int protection, int flags, int file, off_t offset) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, length, protection, flags, file, offset));
}
int posix_memalign(void** pointer, size_t alignment, size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  *pointer = __libc_memalign(alignment, size);
  return *pointer == nullptr ? 12 : 0;  // ENOMEM
}
}
#endif

namespace fulgurite {
namespace {

#if FULGURITE_COUNTS_ALLOCATIONS
int64_t counted(execute::Session& session, std::span<const int32_t> ids) {
  const int64_t before = allocations.load();
  session.forward(0, ids);
  return allocations.load() - before;
}

TEST(allocation, the_counter_counts) {
  const int64_t before = allocations.load();
  std::vector<int> block(1000);
  std::free(std::malloc(block.size()));
  EXPECT_GE(allocations.load() - before, 2);
  const int64_t before_mapping = allocations.load();
  const HostBuffer buffer(4096);
  EXPECT_EQ(allocations.load() - before_mapping, 1);
}

TEST(allocation, forward_allocates_nothing_from_its_first_call_on) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(0);
  for (const char* const numerics : {"serving", "fp32", "fp32,mla=expanded"}) {
    for (const int threads : {1, 2}) {
      plan::Options options;
      options.context = 512;
      options.chunk_tokens = 300;
      options.numerics = parse_numerics(numerics);
      execute::Session session(tiny.model, plan::make(tiny.model, test::device(threads), options));
      EXPECT_EQ(counted(session, std::span(ids).first(300)), 0) << "prefill, threads " << threads;
      EXPECT_EQ(counted(session, std::span(ids).subspan(300, 1)), 0) << "decode, threads " << threads;
    }
  }
}

#else
TEST(allocation, is_counted_without_sanitizers_only) { GTEST_SKIP() << "the sanitizer owns the allocator"; }
#endif

}  // namespace
}  // namespace fulgurite
