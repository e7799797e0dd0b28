// The row of the catalog: the contract's views as the kernels' parameters.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_rules.h"

namespace fulgurite::sparse_attention {

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  FULGURITE_ASSERT(args.slots, "sparse_attention: the kernels of Hopper read slots");
  const HopperPlan plan =
      hopper_plan(problem.setting.numerics.latent_cache, args.q.extent[0], problem.heads, problem.topk);
  CudaParams params;
  params.q = reinterpret_cast<const uint16_t*>(args.q.data);
  params.q_token = args.q.stride[0];
  params.q_head = args.q.stride[1];
  params.q_rope = reinterpret_cast<const uint16_t*>(args.q_rope.data);
  params.q_rope_token = args.q_rope.stride[0];
  params.q_rope_head = args.q_rope.stride[1];
  params.form = args.cache.row.form == LatentCache::kFp8 ? CudaRows::kFp8 : CudaRows::kBf16;
  params.rows = reinterpret_cast<const uint8_t*>(args.cache.rows.data);
  params.row_stride = args.cache.rows.stride[1];
  params.selected = args.slots.data;
  params.selected_stride = args.slots.stride[0];
  params.out = reinterpret_cast<uint16_t*>(args.out.data);
  params.out_token = args.out.stride[0];
  params.out_head = args.out.stride[1];
  params.workspace = lane.workspace.data();
  params.tokens = static_cast<int32_t>(args.q.extent[0]);
  params.heads = static_cast<int32_t>(problem.heads);
  params.topk = static_cast<int32_t>(problem.topk);
  params.splits = plan.splits;
  params.block_heads = plan.block_heads;
  params.scale = problem.scale;
  params.dependent = !lane.waits;
  cuda_launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace fulgurite::sparse_attention
