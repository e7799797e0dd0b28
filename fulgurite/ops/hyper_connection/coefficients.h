#pragma once
// What the m of a token become: the few values that its streams are mixed with. A handful of operations,
// which reference, CPU and GPU make alike.

#include <algorithm>
#include <cmath>

#include "fulgurite/ops/hyper_connection/hyper_connection.h"

namespace fulgurite::hyper_connection {

struct Coefficients {
  float pre[kStreams];
  float post[kStreams];           // of a layer
  float mix[kStreams][kStreams];  // of a layer
};

namespace detail {

using Square = float[kStreams][kStreams];

FULGURITE_HOST_DEVICE inline float sigmoid(float z) {
  return static_cast<float>(1.0 / (1.0 + std::exp(-static_cast<double>(z))));
}

FULGURITE_HOST_DEVICE inline void softmax_rows(float eps, Square& c) {
  for (auto& row : c) {
    float largest = row[0], sum = 0.0f;
    for (const float value : row) largest = std::max(largest, value);
    for (float& value : row) {
      value = static_cast<float>(std::exp(static_cast<double>(value - largest)));
      sum += value;
    }
    for (float& value : row) value = value / sum + eps;
  }
}

FULGURITE_HOST_DEVICE inline void divide_rows(float eps, Square& c) {
  for (auto& row : c) {
    float sum = 0.0f;
    for (const float value : row) sum += value;
    for (float& value : row) value /= sum + eps;
  }
}

FULGURITE_HOST_DEVICE inline void divide_columns(float eps, Square& c) {
  float sum[kStreams] = {};
  for (const auto& row : c)
    for (int64_t k = 0; k < kStreams; ++k) sum[k] += row[k];
  for (auto& row : c)
    for (int64_t k = 0; k < kStreams; ++k) row[k] /= sum[k] + eps;
}

FULGURITE_HOST_DEVICE inline void sinkhorn(const Problem& problem, Square& c) {
  softmax_rows(problem.eps, c);
  divide_columns(problem.eps, c);
  for (int i = 1; i < problem.sinkhorn_iterations; ++i) {
    divide_rows(problem.eps, c);
    divide_columns(problem.eps, c);
  }
}

}  // namespace detail

// m: outputs(problem) values, as the contract has them.
FULGURITE_HOST_DEVICE inline Coefficients coefficients_of(const Problem& problem, const Args& args,
                                                          const float* m) {
  const auto z = [&](int64_t n, int64_t part) { return m[n] * args.scale(part) + args.base(n); };
  Coefficients made;
  for (int64_t j = 0; j < kStreams; ++j) made.pre[j] = detail::sigmoid(z(j, 0)) + problem.eps;
  if (problem.kind == Kind::kHead) return made;
  for (int64_t j = 0; j < kStreams; ++j) made.post[j] = 2.0f * detail::sigmoid(z(kStreams + j, 1));
  for (int64_t j = 0; j < kStreams; ++j)
    for (int64_t k = 0; k < kStreams; ++k) made.mix[j][k] = z((2 + j) * kStreams + k, 2);
  detail::sinkhorn(problem, made.mix);
  return made;
}

}  // namespace fulgurite::hyper_connection
