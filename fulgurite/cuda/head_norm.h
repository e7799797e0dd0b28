#pragma once
// A row of 512 that a warp holds, as DeepSeek-V4's heads and kv rows are: lane i has columns 8i .. 8i + 7 and 256 + 8i ..
// 256 + 8i + 7. Its mean of squares with the contract's bits, and RoPE of eight neighbours.

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/settled.h"

namespace fulgurite::cuda {

__device__ inline double tree_of_squares(const Eight& v) {
  double sum = 0.0;
#pragma unroll
  for (int i = 0; i < 8; i += 2) sum = __dadd_rn(sum, __dadd_rn(square(v[i]), square(v[i + 1])));
  return sum;
}

// The contract's chain, by all lanes alike: lane 0's eight values, then lane 1's.
__device__ inline double add_in_order(double sum, const Eight& v) {
  for (int lane = 0; lane < 32; ++lane) {
#pragma unroll
    for (int i = 0; i < 8; ++i) sum = __dadd_rn(sum, square(__shfl_sync(~0u, v[i], lane)));
  }
  return sum;
}

__device__ inline float mean_square_of_512(const Eight (&row)[2]) {
  const double sum = sum_of_lanes<32>(__dadd_rn(tree_of_squares(row[0]), tree_of_squares(row[1])));
  const Mean mean = settled_mean(sum, 512, 1.0 / 512);
  if (mean.certain) return mean.value;
  return exact_mean(add_in_order(add_in_order(0.0, row[0]), row[1]), 512);
}

// Four neighbours of a table, at a multiple of 16 bytes.
__device__ inline void read_four(float (&v)[4], const float* at) {
  const float4 four = __ldg(reinterpret_cast<const float4*>(at));
  v[0] = four.x, v[1] = four.y, v[2] = four.z, v[3] = four.w;
}

// Pairs of neighbours.
__device__ inline void rotate_eight(Eight& v, const float (&cosine)[4], const float (&sine)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float a = v[2 * i], b = v[2 * i + 1];
    v[2 * i] = __fsub_rn(__fmul_rn(a, cosine[i]), __fmul_rn(b, sine[i]));
    v[2 * i + 1] = __fadd_rn(__fmul_rn(a, sine[i]), __fmul_rn(b, cosine[i]));
  }
}

}  // namespace fulgurite::cuda
