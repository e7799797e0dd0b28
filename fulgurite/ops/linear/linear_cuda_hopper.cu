#include "fulgurite/ops/linear/linear_cuda_hopper.h"

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {

namespace {

constexpr int kShortRow = 2048;  // columns

// Tokens up to which blocks of 64 rows are faster than tiles of 128. Where K is in parts there are too few tiles for all
// processors; of a short K it is a tile's beginning and end that count, of a long one that activations are read half as often.
int most_few(const Params& params) {
  return parts_of(params.in, params.out) > 1 || params.in <= kShortRow ? 128 : 64;
}

}  // namespace

void launch_product(const Params& params, cudaStream_t stream, bool dependent) {
  if (params.tokens == 0) return;
  const bool few = params.tokens <= most_few(params);
  cuda::check(few ? launch_few(params, dependent, stream) : launch_tiles(params, dependent, stream),
              "linear");
}

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens > 0 && fuses(params)) return cuda::check(launch_fused(params, stream), "linear");
  launch_quantization(params, stream);
  launch_product(params, stream);
}

}  // namespace fulgurite::linear::hopper
