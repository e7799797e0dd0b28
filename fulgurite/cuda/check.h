#pragma once
// Errors of the CUDA runtime, as Error{kDevice}.

#include <cuda_runtime.h>

#include "fulgurite/core/error.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    fail(ErrorKind::kDevice, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

// After a launch on the lane's stream.
inline void launched(const Lane& lane) {
  check(cudaGetLastError(), "a launch");
  if (lane.waits) check(cudaStreamSynchronize(static_cast<cudaStream_t>(lane.stream)), "a kernel");
}

}  // namespace fulgurite::cuda
