#pragma once
// Splits [0, count) into one contiguous range a thread and runs body(begin, end, thread) on each. Results
// must not depend on the split. The body throws nothing.

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace fulgurite::cpu {

template <class Body>
void parallel_for(int threads, int64_t count, const Body& body) {
  const int used = static_cast<int>(std::min<int64_t>(threads, count));
  if (used <= 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
#pragma omp parallel num_threads(used)
  {
    // The team may be smaller than asked for: the split follows what came.
    const int64_t team = omp_get_num_threads();
    const int64_t thread = omp_get_thread_num();
    body(count * thread / team, count * (thread + 1) / team, static_cast<int>(thread));
  }
}

}  // namespace fulgurite::cpu
