#pragma once
// The fp8 linear on Hopper (linear.h): activations quantized by a small kernel, then a product on the tensor
// cores, which asks for its weights while the small kernel runs (cuda/dependent_launch.h). Of one token and
// parts of K of up to 2048 columns one kernel does both.
//
// Order of K   order_of(in, out) of core/tensor_core.h, mma = hopper, for any number of
//              tokens: each 128 columns a partial from zero in four instructions of 32, promoted by
//              fma(partial, fp32(sa * sb), acc); a part is one run of promotions from +0; parts are added in
//              ascending order. A token's bits depend on nothing but its row and the weight.
// Memory       workspace_bytes() of scratch, of the device: codes and scales of the activations. Parts meet in
//              the shared memory of a cluster of blocks.
// Errors       launch() throws Error{kDevice}.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fulgurite/core/scale_rounding.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_order.h"

namespace fulgurite::linear::hopper {

// in: a multiple of 16; out: of 8. Pointers at multiples of 16 bytes; x_stride and y_stride (elements) multiples
// of 8, weight_stride of 16.
struct Params {
  const uint16_t* x = nullptr;  // [tokens, in] bf16
  int64_t x_stride = 0;
  const uint8_t* weight = nullptr;  // [out, in] e4m3
  int64_t weight_stride = 0;
  const float* scale = nullptr;        // [ceil(out / 128), ceil(in / 128)]
  const uint8_t* exponents = nullptr;  // in its place, e8m0
  int64_t scale_stride = 0;
  uint16_t* y = nullptr;  // [tokens, out] bf16
  int64_t y_stride = 0;
  void* workspace = nullptr;  // at a multiple of 256 bytes
  int tokens = 0;
  int in = 0;
  int out = 0;
  ScaleRounding rounding = ScaleRounding::kPow2;  // of the activations' scales
  bool dependent =
      false;             // a dependent launch; weight and scale are read before the predecessor is waited for
  int processors = 132;  // to spread over where a block can do several tiles; no bit depends on it
};

void launch(const Params& params, cudaStream_t stream);

// The two halves, for those who time them, or who quantize once for several products: the second reads what the
// first wrote to the workspace, and is a dependent launch unless asked not to be.
void launch_quantization(const Params& params, cudaStream_t stream);
void launch_product(const Params& params, cudaStream_t stream, bool dependent = true);

}  // namespace fulgurite::linear::hopper
