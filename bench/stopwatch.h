#pragma once
// Kernels on a GPU's clock. For nvcc alone.

#include <algorithm>

#include "fulgurite/cuda/check.h"

namespace fulgurite::bench {

class Stopwatch {
 public:
  explicit Stopwatch(cudaStream_t stream) : stream_(stream) {
    cuda::check(cudaEventCreate(&start_), "cudaEventCreate");
    cuda::check(cudaEventCreate(&end_), "cudaEventCreate");
  }
  ~Stopwatch() {
    cudaEventDestroy(start_);
    cudaEventDestroy(end_);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;

  // The shortest time of several launches.
  template <class Launch>
  double fastest(const Launch& launch) const {
    constexpr int kPasses = 7;
    double best = 1e30;
    for (int pass = 0; pass <= kPasses; ++pass) {
      cuda::check(cudaEventRecord(start_, stream_), "cudaEventRecord");
      launch();
      cuda::check(cudaGetLastError(), "a launch");
      cuda::check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      cuda::check(cudaEventSynchronize(end_), "a kernel");
      float milliseconds = 0.0f;
      cuda::check(cudaEventElapsedTime(&milliseconds, start_, end_), "cudaEventElapsedTime");
      if (pass > 0)
        best = std::min(best, static_cast<double>(milliseconds) * 1e-3);  // the first loads the kernel
    }
    return best;
  }

 private:
  cudaStream_t stream_;
  cudaEvent_t start_ = nullptr, end_ = nullptr;
};

}  // namespace fulgurite::bench
