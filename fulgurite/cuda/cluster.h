#pragma once
// Thread blocks of a cluster: their barrier, and shared memory of one another (sm_90).

#include <cstdint>

namespace fulgurite::cuda {

// The address of an object in shared memory, as instructions take it.
__device__ inline uint32_t shared_address(const void* object) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(object));
}

__device__ inline uint32_t cluster_rank() {
  uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// All threads of all blocks arrive; what was written before an arrival is seen after the wait.
__device__ inline void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
// An arrival that publishes nothing (barriers publish themselves: fence.mbarrier_init); no fence is paid for.
__device__ inline void cluster_arrive_relaxed() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}
__device__ inline void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The same place in the shared memory of block `rank`: an address for the two below alone.
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

// One arrival at another block's barrier.
__device__ inline void arrive_at(uint32_t remote_barrier) {
  asm volatile("mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%0];" ::"r"(remote_barrier)
               : "memory");
}

}  // namespace fulgurite::cuda
