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

// Returns the first value that is not `old`: looks for it for about 80 us, longer than
// what one thread does between two pieces of shared work, then sleeps: waking takes as long.
template <class T>
T wait_for_change(const std::atomic<T>& value, T old) {
  constexpr int kLooks = 4000;
  for (int i = 0; i < kLooks; ++i) {
    if (const T now = value.load(std::memory_order_acquire); now != old) return now;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  try {
    for (int thread = 1; thread < threads; ++thread) helpers_.emplace_back([this, thread] { help(thread); });
  } catch (const std::exception&) {  // std::system_error, or no memory for another thread
    stop();
    fail(ErrorKind::kMemory, "the system gives no {} threads", threads);
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  body_ = nullptr;
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  for (std::thread& helper : helpers_) helper.join();
}

void ThreadPool::run(void (*body)(void* context, int thread), void* context) {
  body_ = body;
  context_ = context;
  busy_.store(static_cast<int32_t>(helpers_.size()), std::memory_order_relaxed);
  round_.fetch_add(1, std::memory_order_release);
  round_.notify_all();
  body(context, 0);
  for (int32_t busy = busy_.load(std::memory_order_acquire); busy != 0;) busy = wait_for_change(busy_, busy);
}

void ThreadPool::help(int thread) {
  for (uint32_t round = 0;;) {
    round = wait_for_change(round_, round);
    if (body_ == nullptr) return;
    body_(context_, thread);
    if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
  }
}

}  // namespace fulgurite::cpu
