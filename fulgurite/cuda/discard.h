#pragma once
// Scratch that was written, read once and is not read again leaves L2 without being written to memory.

#include <cstdint>

namespace fulgurite::cuda {

inline constexpr int kLineBytes = 128;

__host__ __device__ inline bool is_line(const void* at) {
  return reinterpret_cast<uintptr_t>(at) % kLineBytes == 0;
}

// Whatever stands in the line afterwards is undefined. All of it must be this warp's, at a multiple of 128 bytes, and read by all lanes
// before a __syncwarp().
__device__ __forceinline__ void discard_line(const void* line) {
  asm volatile("discard.global.L2 [%0], 128;" ::"l"(line) : "memory");
}

}  // namespace fulgurite::cuda
