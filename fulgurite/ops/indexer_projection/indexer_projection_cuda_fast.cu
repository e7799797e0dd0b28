#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_kernels.h"

namespace fulgurite::indexer_projection::cuda {

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  fulgurite::cuda::check(
      params.tokens <= kFewTokens ? launch_few(params, stream) : launch_tiles(params, stream),
      "indexer_projection");
}

}  // namespace fulgurite::indexer_projection::cuda
