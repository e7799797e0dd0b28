#pragma once
// One small row of fp32 values in scratch, on its way into a cache: what an index of the generic rows makes
// of it. Each step ends with the rounding to the activation's type.

#include "fulgurite/core/element.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/cuda/generic.h"

namespace fulgurite::cuda {

struct Row {
  float* x = nullptr;
  int64_t width = 0;
  DType type = DType::kF32;  // of activations

  FULGURITE_HOST_DEVICE void round() const {
    for (int64_t i = 0; i < width; ++i) x[i] = round_to(type, x[i]);
  }

  // The norm of ops/norm/norm.h.
  FULGURITE_HOST_DEVICE void normalize(const View<const float, 1>& weight, float eps,
                                       const Numerics& numerics) const {
    double squares = 0.0;
    for (int64_t i = 0; i < width; ++i) squares += static_cast<double>(x[i]) * static_cast<double>(x[i]);
    const float mean = static_cast<float>(squares / static_cast<double>(width));
    const float r = cuda::reciprocal_sqrt(mean + eps, numerics);
    for (int64_t i = 0; i < width; ++i) x[i] = weight(i) * (x[i] * r);
    round();
  }

  FULGURITE_HOST_DEVICE void hadamard() const {
    fulgurite::hadamard({x, static_cast<size_t>(width)});
    round();
  }
};

}  // namespace fulgurite::cuda
