#pragma once
// Errors of the CUDA runtime, as Error{kDevice}.

#include <cuda_runtime.h>

#include "fulgurite/core/error.h"

namespace fulgurite::cuda {

inline void check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) fail(ErrorKind::kDevice, "CUDA: {} failed: {}", what, cudaGetErrorString(status));
}

}  // namespace fulgurite::cuda
