#pragma once
// head_projection on Hopper: bf16 weights from memory once for up to 128 tokens, sums on the tensor cores.
//
// Order of K   one accumulation, ascending, in instructions of 16 columns: mma = hopper of the reference. A
//              token's bits depend on nothing but its row and the weight.
// Memory       no workspace.
// Errors       launch() throws Error{kDevice}; takes() says which shapes there are kernels for.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection::hopper {

// Strides in elements, multiples of 8; pointers at multiples of 16 bytes.
struct Params {
  Direction direction = Direction::kFromRows;
  const uint16_t* x = nullptr;  // [tokens, heads, rows or latent] bf16
  int64_t x_token_stride = 0, x_head_stride = 0;
  const uint16_t* weight = nullptr;  // kv_b, [heads * rows_per_head, latent] bf16
  int64_t weight_stride = 0;
  uint16_t* y = nullptr;  // [tokens, heads, latent or rows] bf16
  int64_t y_token_stride = 0, y_head_stride = 0;
  int tokens = 0;
  int heads = 0;
  int rows_per_head = 0;
  int first_row = 0;
  int rows = 0;
  int latent = 0;
  bool dependent = false;  // a dependent launch; the weight is read before the predecessor is waited for
};

// 128 or 192 rows into the latent space, 128 or 256 out of it (DeepSeek-V3.2, GLM-5); latent: a multiple of 64.
bool takes(Direction direction, int64_t rows, int64_t latent);

void launch(const Params& params, cudaStream_t stream);

}  // namespace fulgurite::head_projection::hopper
