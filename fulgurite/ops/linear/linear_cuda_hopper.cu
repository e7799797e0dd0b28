#include "fulgurite/ops/linear/linear_cuda_hopper.h"

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {

void launch_product(const Params& params, cudaStream_t stream, bool dependent) {
  if (params.tokens == 0) return;
  // Where K is in parts there are too few tiles of 128 rows for all processors.
  const int few = parts_of(params.in, params.out) > 1 ? 128 : 64;
  cuda::check(
      params.tokens <= few ? launch_few(params, dependent, stream) : launch_tiles(params, dependent, stream),
      "linear");
}

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens > 0 && fuses(params)) return cuda::check(launch_fused(params, stream), "linear");
  launch_quantization(params, stream);
  launch_product(params, stream);
}

}  // namespace fulgurite::linear::hopper
