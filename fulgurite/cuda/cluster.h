#pragma once
// Thread blocks of a cluster: their barrier, and shared memory of one another (sm_90).

#include <cstdint>

#include "fulgurite/cuda/barrier.h"

namespace fulgurite::cuda {

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks arrive; what was written before an arrival is seen after the wait.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// One that publishes shared memory alone: it does not wait for writes to global memory.
__device__ inline void cluster_arrive_shared() {
  asm volatile(
      "fence.release.sync_restrict::shared::cta.cluster;\n"
      "barrier.cluster.arrive.relaxed.aligned;" ::
          : "memory");
}
// An arrival that publishes nothing (barriers publish themselves: fence.mbarrier_init); no fence is paid for.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The same place in the shared memory of block `rank`: an address for what follows alone.
__device__ inline uint32_t address_in(uint32_t address, uint32_t rank) {
  uint32_t remote;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
  return remote;
}

// 16 bytes into another block, counted by a barrier there, which its owner waits on.
__device__ inline void send(uint32_t remote, float4 value, uint32_t remote_barrier) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(
          remote),
      "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(remote_barrier)
      : "memory");
}

// 8 bytes into another block, ordered by an arrival at the cluster's barrier.
__device__ inline void store_in(uint32_t remote, double value) {
  asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(remote), "d"(value) : "memory");
}

// Contiguous bytes of this block's shared memory (`from`, 16-byte aligned), by the bulk copy engine.
__device__ inline void copy_to_block(uint32_t remote, uint32_t from, uint32_t bytes,
                                     uint32_t remote_barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          remote),
      "r"(from), "r"(bytes), "r"(remote_barrier)
      : "memory");
}

// One arrival at another block's barrier by one who has but read: orders nothing that was written, and so
// does not wait for writes to memory, as the one below does.
__device__ inline void arrive_at_having_read(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier) : "memory");
}

// One arrival at another block's barrier.
__device__ inline void arrive_at(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier)
               : "memory");
}

// As barrier_wait, and what blocks of the cluster sent is seen after.
__device__ inline void barrier_wait_cluster(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, [%0], %1;\n@!done bra "
      "again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ inline void barrier_wait_cluster(Barrier* barrier, uint32_t parity) {
  barrier_wait_cluster(shared_address(barrier), parity);
}

// What another block has in its shared memory.
__device__ inline uint32_t load_remote(uint32_t remote) {
  uint32_t value;
  asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(remote) : "memory");
  return value;
}
__device__ inline uint2 load_remote_pair(uint32_t remote) {
  uint2 pair;
  asm volatile("ld.shared::cluster.v2.u32 {%0, %1}, [%2];"
               : "=r"(pair.x), "=r"(pair.y)
               : "r"(remote)
               : "memory");
  return pair;
}

}  // namespace fulgurite::cuda
