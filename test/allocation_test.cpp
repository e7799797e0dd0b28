// Session::forward allocates nothing: every call of the C allocator and every mapping in this process is
// counted.

#include <gtest/gtest.h>

#include <cstdlib>

#include "test/counted_memory.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

#if FULGURITE_COUNTS_MEMORY
int64_t counted(execute::Session& session, std::span<const int32_t> ids) {
  const int64_t before = test::counted_memory().allocations;
  session.forward(0, ids);
  return test::counted_memory().allocations - before;
}

TEST(allocation, the_counter_counts) {
  const int64_t before = test::counted_memory().allocations;
  std::vector<int> block(1000);
  void* volatile kept = std::malloc(block.size());  // volatile: or the pair of calls may be left out
  std::free(kept);
  EXPECT_GE(test::counted_memory().allocations - before, 2);
  const int64_t before_mapping = test::counted_memory().allocations;
  const HostBuffer buffer(4096);
  EXPECT_EQ(test::counted_memory().allocations - before_mapping, 1);
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
