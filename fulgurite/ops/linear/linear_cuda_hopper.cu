#include "fulgurite/ops/linear/linear_cuda_hopper.h"

#include <stdexcept>
#include <string>

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {

int64_t workspace_bytes(int64_t tokens, int64_t in) {
  return (coded_tokens(tokens) * in + 255) / 256 * 256 +
         pieces(in, kBlock) * ((tokens + 255) / 256 * 256) * static_cast<int64_t>(sizeof(float));
}

namespace {

void succeeded(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("linear: ") + cudaGetErrorString(error));
}

}  // namespace

void launch_product(const Params& params, cudaStream_t stream, bool dependent) {
  if (params.tokens == 0) return;
  // Where K is in parts there are too few tiles of 128 rows for all processors.
  const int few = parts_of(params.in, params.out) > 1 ? 128 : 64;
  succeeded(params.tokens <= few ? launch_few(params, dependent, stream)
                                 : launch_tiles(params, dependent, stream));
}

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens > 0 && fuses(params)) return succeeded(launch_fused(params, stream));
  launch_quantization(params, stream);
  launch_product(params, stream);
}

}  // namespace fulgurite::linear::hopper
