#include "fulgurite/cpu/thread_pool.h"

#include <exception>

#include "fulgurite/core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace fulgurite::cpu {
namespace {

void pause() {
#if defined(__x86_64__)
  _mm_pause();
#endif
}

// Looks for about 80 us, longer than what one thread does between two pieces of shared work; to sleep and be woken
// takes as long.
template <class Done>
bool comes_soon(const Done& done) {
  constexpr int kLooks = 4000;
  for (int i = 0; i < kLooks; ++i) {
    if (done()) return true;
    pause();
  }
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int threads) : seats_(threads > 1 ? static_cast<size_t>(threads - 1) : 0) {
  try {
    for (int thread = 1; thread < threads; ++thread) helpers_.emplace_back([this, thread] { help(thread); });
  } catch (const std::exception&) {  // std::system_error, or no memory for another thread
    stop();
    fail(ErrorKind::kMemory, "the system gives no {} threads", threads);
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  for (Seat& seat : seats_) seat.part.store(kLeave, std::memory_order_release);
  tell();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::tell() {
  rounds_.fetch_add(1, std::memory_order_release);
  rounds_.notify_all();
}

void ThreadPool::run(void (*body)(void* context, int thread), void* context) {
  for (Seat& seat : seats_) {
    seat.body = body;
    seat.context = context;
    seat.part.store(kOffered, std::memory_order_release);
  }
  tell();
  body(context, 0);
  for (size_t i = 0; i < seats_.size(); ++i) {
    uint32_t part = kOffered;
    if (seats_[i].part.load(std::memory_order_relaxed) == kOffered &&
        seats_[i].part.compare_exchange_strong(part, kNone, std::memory_order_relaxed))
      body(context, static_cast<int>(i) + 1);
  }
  for (const Seat& seat : seats_) {
    const auto ended = [&] { return seat.part.load(std::memory_order_acquire) == kNone; };
    while (!comes_soon(ended)) seat.part.wait(kTaken, std::memory_order_acquire);
  }
}

void ThreadPool::wait_for_offer(const Seat& seat) const {
  const auto offered = [&] {
    const uint32_t part = seat.part.load(std::memory_order_relaxed);
    return part == kOffered || part == kLeave;
  };
  while (!comes_soon(offered)) {
    const uint32_t round = rounds_.load(std::memory_order_acquire);
    if (offered()) return;  // before that round
    rounds_.wait(round, std::memory_order_acquire);
  }
}

void ThreadPool::help(int thread) {
  Seat& seat = seats_[static_cast<size_t>(thread) - 1];
  for (;;) {
    wait_for_offer(seat);
    uint32_t part = kOffered;
    if (seat.part.compare_exchange_strong(part, kTaken, std::memory_order_acquire)) {
      seat.body(seat.context, thread);
      seat.part.store(kNone, std::memory_order_release);
      seat.part.notify_one();
    } else if (part == kLeave) {
      return;
    }
  }
}

}  // namespace fulgurite::cpu
