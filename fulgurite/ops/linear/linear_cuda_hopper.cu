#include "fulgurite/ops/linear/linear_cuda_hopper.h"

#include <stdexcept>
#include <string>

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {

// As many as give most processors a tile of 64 rows and a part of K, none of them empty.
int parts_of(int in, int out) {
  const int tiles = pieces(out, 64), blocks = pieces(in, kBlock);
  int parts = tiles >= 96 ? 1 : tiles >= 48 ? 2 : 4;
  while (parts > 1 && (parts - 1) * pieces(blocks, parts) >= blocks) parts /= 2;
  return parts;
}

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
  succeeded(params.tokens <= kFewTokens ? launch_few(params, dependent, stream)
                                        : launch_tiles(params, dependent, stream));
}

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens > 0 && fuses(params)) return succeeded(launch_fused(params, stream));
  launch_quantization(params, stream);
  launch_product(params, stream);
}

}  // namespace fulgurite::linear::hopper
