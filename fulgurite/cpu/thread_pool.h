#pragma once
// Workers of the CPU. A thread that waits spins for some microseconds, which is how long the next operation
// takes to come, and then sleeps: on a busy machine a team that spins for milliseconds keeps its own last
// member from running (docs/decisions/0005).

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

#include "fulgurite/core/workers.h"

namespace fulgurite::cpu {

class ThreadPool : public Workers {
 public:
  explicit ThreadPool(int threads);  // the caller counts as one; throws Error{kMemory}
  ~ThreadPool() override;

  int threads() const override { return static_cast<int>(helpers_.size()) + 1; }
  void run(void (*body)(void* context, int thread), void* context) override;

 private:
  void help(int thread);
  void stop();  // ends and joins the helpers

  void (*body_)(void*, int) = nullptr;  // of the current round; nullptr: leave
  void* context_ = nullptr;
  std::atomic<uint32_t> round_{0};
  std::atomic<int32_t> busy_{0};  // helpers that have not finished the round
  std::vector<std::thread> helpers_;
};

}  // namespace fulgurite::cpu
