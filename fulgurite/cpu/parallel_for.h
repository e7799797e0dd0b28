#pragma once
// Splits [0, count) into one contiguous range a thread and runs body(begin, end, thread) on each. Results
// must not depend on the split. The body throws nothing.

#include <omp.h>

#include <cstdint>

namespace fulgurite::cpu {

template <class Body>
void parallel_for(int threads, int64_t count, const Body& body) {
  if (threads <= 1 || count <= 1) {
    if (count > 0) body(int64_t{0}, count, 0);
    return;
  }
  // Always the whole team: one of another size would be allocated anew.
#pragma omp parallel num_threads(threads)
  {
    const int64_t team = omp_get_num_threads();
    const int64_t thread = omp_get_thread_num();
    const int64_t begin = count * thread / team, end = count * (thread + 1) / team;
    if (begin < end) body(begin, end, static_cast<int>(thread));
  }
}

}  // namespace fulgurite::cpu
