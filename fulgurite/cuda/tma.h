#pragma once
// The bulk copy engine: global memory to shared memory, counted in bytes by a barrier (barrier.h).

#include <cuda.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "fulgurite/cuda/barrier.h"

namespace fulgurite::cuda {

// One thread of a warp, all of which ask.
__device__ __forceinline__ bool elect() {
  uint32_t elected;
  asm volatile("{\n.reg .pred p;\nelect.sync _|p, 0xFFFFFFFF;\nselp.u32 %0, 1, 0, p;\n}" : "=r"(elected));
  return elected != 0;
}

// How long the L2 cache should keep what a copy reads.
enum class L2Policy { kNormal, kEvictFirst };

__device__ __forceinline__ uint64_t l2_policy(L2Policy policy) {
  uint64_t handle;
  if (policy == L2Policy::kEvictFirst)
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(handle));
  else
    asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(handle));
  return handle;
}

// Contiguous bytes; addresses and count are multiples of 16.
__device__ __forceinline__ void bulk_load(void* shared, const void* global, uint32_t bytes, Barrier* barrier,
                                          uint64_t policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, "
      "[%3], %4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// The other way; what lies in shared memory has been made visible (shared_writes_fence). Shared memory may be left when
// bulk_stores_wait, of the same thread, has returned; what is in global memory is seen by later kernels.
__device__ __forceinline__ void bulk_store(void* global, const void* shared, uint32_t bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global),
               "r"(shared_address(shared)), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void bulk_stores_wait() {
  asm volatile("cp.async.bulk.commit_group;\ncp.async.bulk.wait_group.read 0;" ::: "memory");
}

// A box of a tensor of three dimensions, at coordinates x (fastest), y, z.
__device__ __forceinline__ void tensor_load(void* shared, const CUtensorMap* map, int32_t x, int32_t y,
                                            int32_t z, Barrier* barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%2, %3, %4}], [%5], %6;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
}

// A box of a matrix, at coordinates x (fastest), y; shared addresses.
__device__ __forceinline__ void tensor_load(uint32_t shared, const CUtensorMap& map, int32_t x, int32_t y,
                                            uint32_t barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
      "[%2];" ::"r"(shared),
      "l"(&map), "r"(barrier), "r"(x), "r"(y)
      : "memory");
}

// The same into every block of the cluster whose bit of `blocks` is set: at the same place of its shared memory, and
// counted by its barrier at the same place.
__device__ __forceinline__ void tensor_load_multicast(void* shared, const CUtensorMap* map, int32_t x,
                                                      int32_t y, int32_t z, Barrier* barrier, uint16_t blocks,
                                                      uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster"
      ".L2::cache_hint [%0], [%1, {%2, %3, %4}], [%5], %6, %7;" ::"r"(shared_address(shared)),
      "l"(map), "r"(x), "r"(y), "r"(z), "r"(shared_address(barrier)), "h"(blocks), "l"(policy)
      : "memory");
}

__device__ __forceinline__ void prefetch_map(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

__device__ __forceinline__ void prefetch_l2(const void* global) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(global) : "memory");
}

// A tensor of bytes [z][y][x], x contiguous, copied in boxes of [1][box_y][128] into rows of 128 bytes whose
// 16-byte pieces lie at piece ^ (row % 8): what wgmma reads as its 128-byte swizzle. Strides are multiples of 16.
struct ByteTensor {
  const void* data = nullptr;
  uint64_t extent[3] = {};  // x, y, z
  uint64_t stride[2] = {};  // bytes from y to y, from z to z
  uint32_t box_y = 0;
};

inline cudaError_t make_map(const ByteTensor& tensor, CUtensorMap* map) {
  void* entry = nullptr;
  cudaDriverEntryPointQueryResult found;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found);
  if (error != cudaSuccess) return error;
  if (found != cudaDriverEntryPointSuccess) return cudaErrorNotSupported;
  const cuuint64_t extents[3] = {tensor.extent[0], tensor.extent[1], tensor.extent[2]};
  const cuuint64_t strides[2] = {tensor.stride[0], tensor.stride[1]};
  const cuuint32_t box[3] = {128, tensor.box_y, 1}, steps[3] = {1, 1, 1};
  const CUresult result = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(entry)(
      map, CU_TENSOR_MAP_DATA_TYPE_UINT8, 3, const_cast<void*>(tensor.data), extents, strides, box, steps,
      CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  return result == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue;
}

}  // namespace fulgurite::cuda
