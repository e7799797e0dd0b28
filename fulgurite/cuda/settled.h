#pragma once
// Means of sums in double in the contract's order, without its chain of additions. Two orders of a sum of
// terms that are not negative differ by little; where so much cannot move the mean's rounding to fp32, any
// order gives the contract's bits. Where it might, which is seldom, the caller adds in the contract's order.

#include <cstdint>

#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {

struct Mean {
  float value;
  bool certain;  // the contract's; a NaN is one in any order
};

// Of n exact terms. Each order of their sum is within n 2^-53 / (1 - n 2^-53) of it, the division by n and
// `inverse`, 1.0 / n, add a rounding each.
__device__ inline Mean settled_mean(double sum, int n, double inverse) {
  const double error = (2.0 * n + 8.0) * 0x1p-53, mean = __dmul_rn(sum, inverse);
  const auto low = static_cast<float>(__dmul_rn(mean, 1.0 - error));
  const auto high = static_cast<float>(__dmul_rn(mean, 1.0 + error));
  return {low, low == high || (is_nan(low) && is_nan(high))};
}
// Of the sum in the contract's order.
__device__ inline float exact_mean(double sum, int n) {
  return static_cast<float>(__ddiv_rn(sum, static_cast<double>(n)));
}

__device__ inline double square(float x) {
  const double value = x;
  return __dmul_rn(value, value);
}

template <int Lanes>  // neighbours of a warp, a power of two
__device__ inline double sum_of_lanes(double value) {
#pragma unroll
  for (int bit = Lanes / 2; bit > 0; bit /= 2) value = __dadd_rn(value, __shfl_xor_sync(~0u, value, bit));
  return value;
}

// `sum`, and then the lanes' values in ascending order.
__device__ inline double add_lanes_in_order(double sum, double value) {
  for (int lane = 0; lane < 32; ++lane) sum = __dadd_rn(sum, __shfl_sync(~0u, value, lane));
  return sum;
}

// rsqrt = correct | two_step. The first is the correctly rounded root: fp32(1 / sqrt((double) m)) is that of
// every m (all significands were tried), in spite of its roundings to double.
__device__ inline float reciprocal_root(float m, bool two_step) {
  return two_step ? __fdiv_rn(1.0f, __fsqrt_rn(m)) : __frsqrt_rn(m);
}

}  // namespace fulgurite::cuda
