#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

#include <stdexcept>
#include <string>

#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_kernels.h"

namespace fulgurite::indexer_projection::cuda {

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  const bool few = params.tokens <= kFewTokens && params.wide == nullptr;
  const cudaError_t error = few ? launch_few(params, stream) : launch_tiles(params, stream);
  if (error != cudaSuccess)
    throw std::runtime_error(std::string("indexer_projection: ") + cudaGetErrorString(error));
}

}  // namespace fulgurite::indexer_projection::cuda
