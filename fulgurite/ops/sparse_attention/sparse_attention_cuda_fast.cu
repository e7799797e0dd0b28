// What the kernels of sparse_attention_cuda.h take, how a shape is split, and their row of the catalog.

#include <algorithm>
#include <stdexcept>
#include <string>

#include "fulgurite/cuda/check.h"
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
  require(takes_heads(p.block_heads) && p.block_heads <= 64 && p.heads % p.block_heads == 0,
          "blocks of its heads");
  require(p.form == CudaRows::kFp8 || p.block_heads == 64, "rows of bf16 in blocks of 64 heads alone");
  require(p.topk > 0 && p.splits >= 1 && p.splits <= kCudaMostSplits,
          "1 to 32 splits of a list of 1 entry or more");
  require(p.row_stride % 16 == 0 && p.sequence_stride % 16 == 0 && aligned(p.rows),
          "rows aligned to 16 bytes");
  require((p.q_token | p.q_head | p.q_rope_token | p.q_rope_head | p.out_token | p.out_head) % 8 == 0,
          "strides of q and out that are multiples of 8");
  require(aligned(p.q) && aligned(p.q_rope) && aligned(p.out), "q and out aligned to 16 bytes");
  require(p.splits == 1 || (p.workspace != nullptr && aligned(p.workspace)),
          "a workspace aligned to 16 bytes");
}

int64_t tiles_of(int32_t topk) { return (topk + kCudaTile - 1) / kCudaTile; }

// --- the row of the catalog ---

constexpr int32_t kProcessors = 132;  // of the GPU that plans are made for

Support supports(const Problem& problem) {
  const Setting& setting = problem.setting;
  const Numerics& n = setting.numerics;
  if (setting.target.kind != DeviceKind::kCuda || setting.target.sm != 90)
    return Refusal{"target " + name(setting.target) + ", takes sm90"};
  if (problem.latent != kCudaLatent || problem.rope != kCudaRope || !takes_heads(problem.heads))
    return Refusal{"its shape, takes 8, 16, 32, 64 or 128 heads of 512 + 64"};
  if (n.latent_cache == LatentCache::kBf16 && problem.heads < 64)
    return Refusal{"rows of bf16 with few heads, takes 64 or 128"};
  return first_refusal(
      {takes(n.mma, {Mma::kExact}), takes(n.mla, {Mla::kAbsorbed}), takes(n.activation, {Activation::kBf16}),
       takes(n.latent_cache, {LatentCache::kFp8, LatentCache::kBf16}),
       takes(n.softmax_tile, {SoftmaxTile::k64}), takes(n.softmax_merge, {SoftmaxMerge::kRunning}),
       takes(n.softmax_denominator, {SoftmaxDenominator::kUnrounded}), takes(n.softmax_p, {SoftmaxP::kBf16}),
       takes(n.qk_operands, {QkOperands::kBf16})});
}

CudaRows form_of(const Problem& problem) {
  return problem.setting.numerics.latent_cache == LatentCache::kFp8 ? CudaRows::kFp8 : CudaRows::kBf16;
}
CudaPlan plan_of(const Problem& problem, int64_t tokens) {
  return cuda_plan(form_of(problem), tokens, static_cast<int32_t>(problem.heads),
                   static_cast<int32_t>(problem.topk), kProcessors);
}

// Of any number of tokens; more than twice as many as processors are not split.
int64_t workspace_bytes(const Problem& problem, int) {
  int64_t most = 0;
  for (int64_t tokens = 1; tokens <= std::min<int64_t>(problem.largest_batch, 2 * kProcessors); ++tokens)
    most = std::max(most, plan_of(problem, tokens).workspace_bytes);
  return most;
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const CudaPlan plan = plan_of(problem, args.q.extent[0]);
  CudaParams p;
  p.q = reinterpret_cast<const uint16_t*>(args.q.data);
  p.q_token = args.q.stride[0];
  p.q_head = args.q.stride[1];
  p.q_rope = reinterpret_cast<const uint16_t*>(args.q_rope.data);
  p.q_rope_token = args.q_rope.stride[0];
  p.q_rope_head = args.q_rope.stride[1];
  p.form = form_of(problem);
  p.rows = reinterpret_cast<const uint8_t*>(args.cache.rows.data);
  p.row_stride = args.cache.rows.stride[1];
  p.sequence_stride = args.cache.rows.stride[0];
  p.places = args.places.data;
  p.selected = args.selected.data;
  p.selected_stride = args.selected.stride[0];
  p.out = reinterpret_cast<uint16_t*>(args.out.data);
  p.out_token = args.out.stride[0];
  p.out_head = args.out.stride[1];
  p.workspace = lane.workspace.data();
  p.tokens = static_cast<int32_t>(args.q.extent[0]);
  p.heads = static_cast<int32_t>(problem.heads);
  p.topk = static_cast<int32_t>(problem.topk);
  p.splits = plan.splits;
  p.block_heads = plan.block_heads;
  p.scale = problem.scale;
  cuda_launch(p, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, run, DeviceKind::kCuda};

void check_cuda(cudaError_t status, const char* what) {
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("sparse_attention: ") + what + ": " + cudaGetErrorString(status));
}

// Few tokens: blocks of as few heads as leave eight to share the processors, so that each writes little.
// Otherwise as many splits as fill the processors once (64 heads take one, of fewer heads two blocks fit);
// two tiles at least.
CudaPlan cuda_plan(CudaRows form, int64_t tokens, int32_t heads, int32_t topk, int32_t processors) {
  const int64_t tiles = std::min<int64_t>(kCudaMostSplits, tiles_of(topk)),
                rows = std::max<int64_t>(tokens, 1);
  CudaPlan plan{1, std::min(heads, 64), 0};
  int64_t most = std::max<int64_t>(tiles / 2, 1),
          places = plan.block_heads == 64 ? processors : 2 * processors;
  for (const int32_t block : {16, 8})
    if (form == CudaRows::kFp8 && block <= heads && rows * (heads / block) <= 8) {
      plan.block_heads = block;
      places = processors;
      most = tiles;
    }
  const int64_t blocks = rows * (heads / plan.block_heads);
  plan.splits = static_cast<int32_t>(std::clamp<int64_t>(places / blocks, 1, most));
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
