#pragma once
// A ring of stages in shared memory, which one thread fills (tma.h) and warps empty: barriers full[] and empty[].

#include "fulgurite/cuda/barrier.h"

namespace fulgurite::cuda {

constexpr int pieces(int64_t count, int64_t of) { return static_cast<int>((count + of - 1) / of); }

// A place in a ring of stages.
template <int kStages>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage < kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

// By the thread that copies, after the last of `uses` stages; `place` is the one after it. A neighbour releases
// stages here: a block that ended before would leave it a barrier that is no more.
template <int kStages>
__device__ void wait_for_releases(Barrier (&empty)[kStages], int uses, Place<kStages> place) {
#pragma unroll 1
  for (int use = uses; use < uses + kStages; ++use, place.advance())
    if (use >= kStages) barrier_wait(&empty[place.stage], place.parity ^ 1);
}

// By one thread of a kernel: `bytes` of the shared memory that it asks for, at most 227 KB.
template <class Kernel>
cudaError_t allow_shared(Kernel kernel, size_t bytes) {
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(bytes));
}

}  // namespace fulgurite::cuda
