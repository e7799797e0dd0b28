#pragma once
// A ring of stages in shared memory, which one thread fills (tma.h) and warps empty: barriers full[] and empty[].

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/cluster.h"

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

// By one thread: a stage is full by one arrival and its bytes, and empty by `releases` arrivals.
template <int kStages>
__device__ void begin_ring(Barrier (&full)[kStages], Barrier (&empty)[kStages], int releases) {
#pragma unroll
  for (int i = 0; i < kStages; ++i) {
    barrier_init(&full[i], 1);
    barrier_init(&empty[i], releases);
  }
}

// By a warp that has read a stage: it may be overwritten, by all blocks of a cluster that copy into it; the own one is told,
// then (lane 1) the neighbour.
template <int kBlocks>
__device__ void release_stage(Barrier* empty, int rank) {
  static_assert(kBlocks == 1 || kBlocks == 2);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  __syncwarp();
  if (lane == 0) barrier_arrive(empty);
  if constexpr (kBlocks == 2)
    if (lane == 1) arrive_at_having_read(address_in(shared_address(empty), rank ^ 1));
}

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
