#pragma once
// Splits [0, count) into one contiguous range for each of lane.threads and runs body(begin, end, thread) on
// each that is not empty; the ranges are shared by as many workers as there are. Results must not depend on
// the split. The body throws nothing.

#include <cstdint>

#include "fulgurite/core/implementation.h"

namespace fulgurite::cpu {

// The lane where `operations` are worth waking its threads for (some microseconds), else its first thread
// alone.
inline Lane worth_splitting(const Lane& lane, int64_t operations) {
  constexpr int64_t kFewest = 20'000;  // a thread
  return operations / lane.threads < kFewest ? Lane{1, nullptr, lane.workspace} : lane;
}

template <class Body>
void parallel_for(const Lane& lane, int64_t count, const Body& body) {
  struct Task {
    int64_t count;
    int threads;
    int workers;
    const Body& body;
    static void run(void* context, int worker) {
      const Task& task = *static_cast<const Task*>(context);
      for (int thread = worker; thread < task.threads; thread += task.workers) {
        const int64_t begin = task.count * thread / task.threads,
                      end = task.count * (thread + 1) / task.threads;
        if (begin < end) task.body(begin, end, thread);
      }
    }
  };
  const bool together = lane.workers != nullptr && lane.threads > 1 && count > 1;
  Task task{count, lane.threads, together ? lane.workers->threads() : 1, body};
  if (together) return lane.workers->run(Task::run, &task);
  Task::run(&task, 0);
}

}  // namespace fulgurite::cpu
