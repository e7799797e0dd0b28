#pragma once
// Workers of the CPU. A thread that waits spins for some microseconds, which is how long the next operation
// takes to come, and then sleeps; what a helper has not begun when the caller is done with its own part, the
// caller does too: on a busy machine nobody waits for a thread that has no core (docs/decisions/0005).

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
  enum Part : uint32_t { kNone, kOffered, kTaken, kLeave };
  // Where a helper is handed its part of a round: a cache line of its own, so that a hand-over moves one line.
  struct alignas(64) Seat {
    std::atomic<uint32_t> part{kNone};
    void (*body)(void*, int) = nullptr;
    void* context = nullptr;
  };

  void help(int thread);
  void wait_for_offer(const Seat& seat) const;
  void tell();  // wakes helpers that sleep
  void stop();  // ends and joins the helpers

  std::vector<Seat> seats_;
  alignas(64) std::atomic<uint32_t> rounds_{0};  // changes with every offer: what helpers sleep on
  std::vector<std::thread> helpers_;
};

}  // namespace fulgurite::cpu
