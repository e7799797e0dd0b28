#pragma once
// One small row of fp32 values in scratch, on its way into a cache: what an index of the generic rows makes
// of it. Each step ends with the rounding to the activation's type.

#include <cmath>

#include "fulgurite/core/element.h"
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

  // Of ops/indexer_prepare/indexer_prepare.h; width is a power of two.
  FULGURITE_HOST_DEVICE void hadamard() const {
    for (int64_t stride = 1; stride < width; stride *= 2) {
      for (int64_t i = 0; i < width; ++i) {
        if ((i & stride) != 0) continue;
        const float a = x[i], b = x[i + stride];
        x[i] = a + b;
        x[i + stride] = a - b;
      }
    }
    const float scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(width)));
    for (int64_t i = 0; i < width; ++i) x[i] = x[i] * scale;
    round();
  }
};

}  // namespace fulgurite::cuda
