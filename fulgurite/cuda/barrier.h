#pragma once
// mbarriers in shared memory: what the bulk copy engine and warps count on. A barrier's phase ends when its
// arrivals and its expected bytes are complete; waiting names the parity of the phase (0, 1, 0, ...).

#include <cstdint>

namespace fulgurite::cuda {

// The address of an object in shared memory, as instructions take it.
__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// Functions take a barrier or its shared_address().
using Barrier = uint64_t;

__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_init(Barrier* barrier, uint32_t arrivals) {
  barrier_init(shared_address(barrier), arrivals);
}

// Makes initialised barriers visible to the copy engine and to the cluster; a __syncthreads must follow.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_arrive(Barrier* barrier) { barrier_arrive(shared_address(barrier)); }

// One arrival, and bytes that copies will bring.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void barrier_expect(Barrier* barrier, uint32_t bytes) {
  barrier_expect(shared_address(barrier), bytes);
}

__device__ __forceinline__ bool barrier_try_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 p, [%1], %2;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(done)
      : "r"(barrier), "r"(parity)
      : "memory");
  return done != 0;
}

// One instruction to the compiler, which may unroll what is around it.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{\n.reg .pred done;\n"
      "again:\nmbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n@!done bra again;\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
__device__ __forceinline__ void barrier_wait(Barrier* barrier, uint32_t parity) {
  while (!barrier_try_wait(shared_address(barrier), parity)) {
  }
}

// For a wait that may be long and is nobody's critical path: leaves issue slots to other warps.
__device__ __forceinline__ void barrier_wait_idle(Barrier* barrier, uint32_t parity) {
  while (!barrier_try_wait(shared_address(barrier), parity)) __nanosleep(32);
}

// Ordinary writes to shared memory, before the copy engine or the tensor cores touch it.
__device__ __forceinline__ void shared_writes_fence() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A barrier of some of a block's warps: `threads` of them, under a name of 1 .. 15.
__device__ __forceinline__ void named_barrier_sync(uint32_t name, uint32_t threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

// The part of those who do not wait.
__device__ __forceinline__ void named_barrier_arrive(uint32_t name, uint32_t threads) {
  asm volatile("barrier.arrive %0, %1;" ::"r"(name), "r"(threads) : "memory");
}

}  // namespace fulgurite::cuda
