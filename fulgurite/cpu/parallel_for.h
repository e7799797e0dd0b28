#pragma once
// Splits [0, count) into one contiguous range a thread and runs body(begin, end, thread) on each that is not
// empty. Results must not depend on the split. The body throws nothing.

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
    int64_t threads;
    const Body& body;
    static void run(void* context, int thread) {
      const Task& task = *static_cast<const Task*>(context);
      const int64_t begin = task.count * thread / task.threads,
                    end = task.count * (thread + 1) / task.threads;
      if (begin < end) task.body(begin, end, thread);
    }
  };
  Task task{count, lane.threads, body};
  if (count > 1 && lane.workers != nullptr) return lane.workers->run(Task::run, &task);
  for (int thread = 0; thread < lane.threads; ++thread) Task::run(&task, thread);
}

}  // namespace fulgurite::cpu
