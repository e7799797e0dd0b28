// What the kernels of sparse_attention_cuda.h take, and which of them runs.

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/cuda/discard.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention {
namespace {

void require(bool holds, const char* what) {
  if (!holds) fail(ErrorKind::kPlan, "sparse_attention on Hopper takes {}", what);
}

bool aligned(const void* data) { return reinterpret_cast<uintptr_t>(data) % 16 == 0; }

bool takes_heads(int64_t heads) {
  return heads == 8 || heads == 16 || heads == 32 || heads == 64 || heads == 128;
}

void check_params(const CudaParams& p) {
  require(takes_heads(p.heads), "8, 16, 32, 64 or 128 heads");
  require(takes_heads(p.block_heads) && p.block_heads != 32 && p.block_heads <= 64 &&
              p.heads % p.block_heads == 0,
          "blocks of its heads");
  require(p.form == CudaRows::kFp8 || p.block_heads == 64, "rows of bf16 in blocks of 64 heads alone");
  require(p.topk > 0 && p.splits >= 1 && p.splits <= kCudaMostSplits,
          "1 to 32 splits of a list of 1 entry or more");
  require(p.row_stride % 16 == 0 && p.row_stride >> 32 == 0 && p.sequence_stride % 16 == 0 && aligned(p.rows),
          "rows aligned to 16 bytes, less than 4 GiB apart");
  require((p.q_token | p.q_head | p.q_rope_token | p.q_rope_head | p.out_token | p.out_head) % 8 == 0,
          "strides of q and out that are multiples of 8");
  require(aligned(p.q) && aligned(p.q_rope) && aligned(p.out), "q and out aligned to 16 bytes");
  require(p.splits == 1 || (p.workspace != nullptr && cuda::is_line(p.workspace)),
          "a workspace aligned to 128 bytes");
}

}  // namespace

void cuda_launch(const CudaParams& given, cudaStream_t stream) {
  if (given.tokens == 0) return;
  CudaParams params = given;
  if (params.block_heads == 0) params.block_heads = params.heads == 32 ? 16 : std::min(params.heads, 64);
  check_params(params);
  if (params.block_heads == 64)
    launch_many(params, stream);
  else
    launch_few(params, stream);
  if (params.splits > 1) launch_merge(params, stream);
}

}  // namespace fulgurite::sparse_attention
