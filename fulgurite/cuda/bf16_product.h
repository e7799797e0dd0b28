#pragma once
// Products of bf16 on Hopper's tensor cores, the weight of each group its own:
//
//   y[t, g, n] = sum_k x[t, g, k] * weight[g, n, k]
//
// Order of K   mma = hopper of core/tensor_core.h: `parts` sums of consecutive columns, each of as many whole
//              boxes of 64, from zero in instructions of 16; parts are added in ascending order. A result's bits
//              depend on nothing but its rows of x and of the weight, and `parts`.
// Memory       no workspace: parts meet in the shared memory of a cluster of blocks.
// Errors       launch_product() says what went wrong.
//
//   few     to 64 tokens, and more where the weight has few rows: what counts is that the weight comes from
//           memory without a pause. 64 or 128 of its rows are the tensor core's, tokens its narrow side.
//   tiles   more: 256 or 128 tokens times 128 rows.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fulgurite::cuda {

// Strides in elements, those of x and the weight multiples of 8, as are `in` and `out`; pointers at multiples of
// 16 bytes.
struct Bf16Product {
  const uint16_t* x = nullptr;
  int64_t x_stride = 0, x_group_stride = 0;  // from token to token, from group to group
  const uint16_t* weight = nullptr;
  int64_t weight_stride = 0, weight_group_stride = 0;
  void* y = nullptr;                         // bf16, or f32
  int64_t y_stride = 0, y_group_stride = 0;  // multiples of 8
  bool is_f32 = false;
  int tokens = 0, groups = 1, in = 0, out = 0;
  int parts = 1;           // of K: 1, 2, 4 or 8
  bool dependent = false;  // a dependent launch; the weight is read before the predecessor is waited for
  int processors = 132;    // to spread over; no bit depends on it
};

cudaError_t launch_product(const Bf16Product& product, cudaStream_t stream);

}  // namespace fulgurite::cuda
