#pragma once
// As bf16_product.h, of a weight that is stored in codes: e4m3 with a scale of e8m0 for each block of 128x128, met as
// bf16(code * scale), which is made on the way from memory:
//
//   y[t, g, n] = sum_k x[t, g, k] * bf16(code[g, n, k] * scale[g, n / 128, k / 128])
//
// Order of K   mma = hopper of core/tensor_core.h: one accumulation, ascending.
// Memory       no workspace. Errors: launch_product() says what went wrong.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fulgurite::cuda {

// Strides of x in elements, multiples of 8; those of codes of 16; pointers at multiples of 16 bytes. `in`, `out`
// and rows_per_group: multiples of 128.
struct CodedProduct {
  const uint16_t* x = nullptr;
  int64_t x_stride = 0, x_group_stride = 0;  // from token to token, from group to group
  const uint8_t* codes = nullptr;  // [groups, rows_per_group, in], of which the first `out` rows are met
  int64_t codes_stride = 0;
  const uint8_t* exponents = nullptr;  // [groups * rows_per_group / 128, in / 128]
  int64_t exponents_stride = 0;
  uint16_t* y = nullptr;                     // bf16
  int64_t y_stride = 0, y_group_stride = 0;  // multiples of 8
  int tokens = 0, groups = 1, in = 0, out = 0, rows_per_group = 0;
  bool dependent = false;  // a dependent launch; the weight is read before the predecessor is waited for
  int processors = 132;    // to spread over; no bit depends on it
};

cudaError_t launch_product(const CodedProduct& product, cudaStream_t stream);

}  // namespace fulgurite::cuda
