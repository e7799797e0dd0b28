#pragma once

#include <atomic>
#include <thread>
#include <vector>

namespace fulgurite::probe {

// run(i) for i < count, on all cores.
template <class Run>
void parallel(int count, const Run& run) {
  std::atomic<int> next{0};
  std::vector<std::thread> threads;
  for (unsigned i = 0; i < std::thread::hardware_concurrency(); ++i)
    threads.emplace_back([&] {
      for (int at; (at = next++) < count;) run(at);
    });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace fulgurite::probe
