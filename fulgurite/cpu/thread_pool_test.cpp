#include "fulgurite/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <cstdio>
#include <cstdlib>

#include "fulgurite/core/error.h"
#include "fulgurite/cpu/parallel_for.h"

namespace fulgurite::cpu {
namespace {

std::vector<int> visits(const Lane& lane, int64_t count) {
  std::vector<int> visits(static_cast<size_t>(count), 0);
  parallel_for(lane, count, [&](int64_t begin, int64_t end, int thread) {
    EXPECT_LT(thread, lane.threads);
    for (int64_t i = begin; i < end; ++i) visits[static_cast<size_t>(i)] += 1;
  });
  return visits;
}

TEST(parallel_for, every_index_is_visited_once_whatever_the_threads) {
  for (const int threads : {1, 2, 3, 7}) {
    ThreadPool workers(threads);
    for (const int64_t count : {0, 1, 2, 5, 100}) {
      EXPECT_EQ(visits({threads, &workers, {}}, count), std::vector<int>(static_cast<size_t>(count), 1));
      EXPECT_EQ(visits({threads, nullptr, {}}, count), std::vector<int>(static_cast<size_t>(count), 1))
          << "no workers";
    }
  }
}

TEST(parallel_for, a_team_of_another_size_than_the_lane_does_every_range_once) {
  for (const int team : {1, 2, 5}) {
    ThreadPool workers(team);
    for (const int threads : {1, 2, 3, 7})
      for (const int64_t count : {0, 1, 2, 5, 100})
        EXPECT_EQ(visits({threads, &workers, {}}, count), std::vector<int>(static_cast<size_t>(count), 1))
            << team << " workers, " << threads << " threads";
  }
}

TEST(thread_pool, every_thread_runs_once_a_round) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool workers(threads);
    EXPECT_EQ(workers.threads(), threads);
    std::vector<int64_t> runs(static_cast<size_t>(threads), 0);
    constexpr int kRounds = 5000;
    for (int round = 0; round < kRounds; ++round)
      workers.run(
          [](void* context, int thread) {
            (*static_cast<std::vector<int64_t>*>(context))[static_cast<size_t>(thread)] += 1;
          },
          &runs);
    EXPECT_EQ(runs, std::vector<int64_t>(static_cast<size_t>(threads), kRounds));
  }
}

// What a round writes, the caller reads: nobody is still at work when run() returns.
TEST(thread_pool, a_round_is_over_when_run_returns) {
  ThreadPool workers(4);
  const Lane lane{4, &workers, {}};
  std::vector<int64_t> values(1000, 0);
  for (int64_t round = 1; round <= 300; ++round) {
    parallel_for(lane, 1000, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] += round;
    });
    const int64_t expected = round * (round + 1) / 2;
    for (const int64_t value : values) ASSERT_EQ(value, expected);
  }
}

TEST(thread_pool, one_that_never_worked_ends) { ThreadPool workers(8); }

// In a process of its own, whose address space holds the stacks of some threads and not of all.
TEST(thread_pool, threads_that_the_system_does_not_give_are_an_error) {
#if defined(__SANITIZE_ADDRESS__)
  GTEST_SKIP() << "AddressSanitizer needs the address space that this test takes away";
#endif
  EXPECT_EXIT(
      {
        rlimit limit{};
        getrlimit(RLIMIT_AS, &limit);
        limit.rlim_cur = rlim_t{2} << 30;
        setrlimit(RLIMIT_AS, &limit);
        try {
          ThreadPool workers(4000);
        } catch (const Error& error) {
          std::fputs(error.what(), stderr);
          std::_Exit(7);  // without the destructors of what the parent still uses
        }
      },
      testing::ExitedWithCode(7), "the system gives no 4000 threads");
}

}  // namespace
}  // namespace fulgurite::cpu
