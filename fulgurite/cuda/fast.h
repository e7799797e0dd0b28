#pragma once
// How rows with kernels of their own launch them.
//
// Launches are dependent (cuda/dependent_launch.h): a kernel waits for its predecessor itself, whatever that
// one is, so that such rows and others may follow one another in any order.

#include "fulgurite/core/implementation.h"
#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/dependent_launch.h"

namespace fulgurite::cuda {

struct Grid {
  dim3 blocks;
  unsigned threads = 0;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  // blocks of a cluster, along x
};

template <class... Parameters, class... Values>
void launch(const Lane& lane, const Grid& grid, void (*kernel)(Parameters...), const Values&... values) {
  cudaLaunchAttribute attributes[]{dependent_launch(true), cluster_of(grid.cluster)};
  cudaLaunchConfig_t config{};
  config.gridDim = grid.blocks;
  config.blockDim = {grid.threads, 1, 1};
  config.dynamicSmemBytes = grid.shared_bytes;
  config.stream = static_cast<cudaStream_t>(lane.stream);
  config.attrs = attributes;
  config.numAttrs = grid.cluster > 1 ? 2 : 1;
  check(cudaLaunchKernelEx(&config, kernel, values...), "a launch");
  launched(lane);
}

// May be read and written 16 bytes at a time: the address, and steps of `strides` elements.
template <class... Strides>
bool is_aligned(const void* data, int64_t element_bytes, Strides... strides) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && ((strides * element_bytes % 16 == 0) && ...);
}

// What the session's buffers and checkpoints give, and a caller of a row has to.
inline void require_aligned(bool aligned, const char* operation) {
  if (!aligned)
    fail(ErrorKind::kRequest, "{}: expected rows at multiples of 16 bytes, found others", operation);
}

}  // namespace fulgurite::cuda
