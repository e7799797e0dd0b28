// What the kernels of sparse_attention_cuda.h take, how a shape is split, and their row of the catalog.

#include <algorithm>
#include <stdexcept>
#include <string>

#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention {
namespace {

void require(bool holds, const char* what) {
  if (!holds) throw std::runtime_error(std::string("sparse_attention on Hopper takes ") + what);
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

bool takes_heads(int64_t heads) {
  return heads == 8 || heads == 16 || heads == 32 || heads == 64 || heads == 128;
}

void check_params(const CudaParams& p) {
  require(takes_heads(p.heads), "8, 16, 32, 64 or 128 heads");
  require(takes_heads(p.block_heads) && p.block_heads <= 64 && p.heads % p.block_heads == 0, "blocks of its heads");
  require(p.form == CudaRows::kFp8 || p.block_heads == 64, "rows of bf16 in blocks of 64 heads alone");
  require(p.topk > 0 && p.splits >= 1 && p.splits <= kCudaMostSplits, "1 to 32 splits of a list of 1 entry or more");
  require(p.row_stride % 16 == 0 && p.sequence_stride % 16 == 0 && aligned(p.rows), "rows aligned to 16 bytes");
  require((p.q_token | p.q_head | p.q_rope_token | p.q_rope_head | p.out_token | p.out_head) % 8 == 0,
          "strides of q and out that are multiples of 8");
  require(aligned(p.q) && aligned(p.q_rope) && aligned(p.out), "q and out aligned to 16 bytes");
  require(p.splits == 1 || (p.workspace != nullptr && aligned(p.workspace)), "a workspace aligned to 16 bytes");
}

int64_t tiles_of(int32_t topk) { return (topk + kCudaTile - 1) / kCudaTile; }

}  // namespace

void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("sparse_attention: ") + what + ": " + cudaGetErrorString(status));
}

// Few tokens: a tile a block, and as few heads a block as leave every block a processor. Otherwise as many splits as
// fill the processors once; 64 heads take one, of fewer two blocks fit.
CudaPlan cuda_plan(int64_t tokens, int32_t heads, int32_t topk, int32_t processors) {
  const int64_t tiles = std::min<int64_t>(kCudaMostSplits, tiles_of(topk)), rows = std::max<int64_t>(tokens, 1);
  CudaPlan plan{1, std::min(heads, 64), 0};
  for (const int32_t block : {32, 16, 8})
    if (block <= heads && rows * tiles * (heads / block) <= processors) plan.block_heads = block;
  const int64_t places = plan.block_heads == 64 ? processors : 2 * processors;
  const int64_t blocks = rows * (heads / plan.block_heads);
  plan.splits = static_cast<int32_t>(std::clamp<int64_t>(places / blocks, 1, tiles));
  plan.workspace_bytes = cuda_workspace_bytes(tokens, heads, plan.splits);
  return plan;
}

int64_t cuda_workspace_bytes(int64_t tokens, int32_t heads, int32_t splits) {
  return splits == 1 ? 0 : tokens * heads * splits * (kCudaLatent * 4 + 8);
}

void cuda_launch(const CudaParams& given, cudaStream_t stream) {
  if (given.tokens == 0) return;
  CudaParams params = given;
  if (params.block_heads == 0) params.block_heads = std::min(params.heads, 64);
  check_params(params);
  if (params.block_heads == 64)
    launch_many(params, stream);
  else
    launch_few(params, stream);
  if (params.splits > 1) launch_merge(params, stream);
}

}  // namespace fulgurite::sparse_attention
