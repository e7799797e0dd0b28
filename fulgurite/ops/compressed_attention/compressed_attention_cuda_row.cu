// The row of the catalog: the contract's views as the kernels' parameters.

#include "fulgurite/cuda/discard.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_parts.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_rules.h"

namespace fulgurite::compressed_attention {
namespace {

CudaRows rows_of(const ConstKvRows& rows) {
  return {reinterpret_cast<const uint8_t*>(rows.blocks.data), rows.blocks.stride[0], rows.blocks.stride[1]};
}

bool is_aligned(const Problem& problem, const Args& args) {
  const auto rows = [](const ConstKvRows& cache) {
    return cuda::is_aligned(cache.blocks.data, 1, cache.blocks.stride[0], cache.blocks.stride[1]);
  };
  return cuda::is_aligned(args.q.data, 2, args.q.stride[0], args.q.stride[1]) &&
         cuda::is_aligned(args.out.data, 2, args.out.stride[0], args.out.stride[1]) && rows(args.window) &&
         (problem.ratio == 0 || rows(args.entries));
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane, const HopperPlan& plan) {
  check(problem, args);
  if (args.q.extent[0] == 0) return;
  cuda::require_aligned(is_aligned(problem, args), "compressed_attention");
  CudaParams params;
  params.q = reinterpret_cast<const uint16_t*>(args.q.data);
  params.q_token = args.q.stride[0];
  params.q_head = args.q.stride[1];
  params.sink = args.sink.data;
  params.window = rows_of(args.window);
  if (problem.ratio > 0) params.entries = rows_of(args.entries);
  params.selected = args.selected.data;
  params.selected_token = args.selected.stride[0];
  params.places = args.places.data;
  params.cosine = args.table.cosine.data;
  params.sine = args.table.sine.data;
  params.cosine_position = args.table.cosine.stride[0];
  params.sine_position = args.table.sine.stride[0];
  params.out = reinterpret_cast<uint16_t*>(args.out.data);
  params.out_token = args.out.stride[0];
  params.out_head = args.out.stride[1];
  params.workspace = lane.workspace.data();
  params.tokens = static_cast<int32_t>(args.q.extent[0]);
  params.heads = static_cast<int32_t>(problem.heads);
  params.seen = static_cast<int32_t>(problem.window);
  params.ring = static_cast<int32_t>(problem.ring);
  params.ratio = static_cast<int32_t>(problem.ratio);
  params.topk = static_cast<int32_t>(problem.topk);
  params.splits = plan.splits;
  params.block_heads = plan.block_heads;
  params.scale = problem.scale;
  const auto stream = static_cast<cudaStream_t>(lane.stream);
  launch_attend(params, stream);
  if (plan.splits > 1) {
    FULGURITE_ASSERT(cuda::is_line(params.workspace), "a workspace aligned to {} bytes", cuda::kLineBytes);
    launch_merge(params, stream);
  }
  cuda::launched(lane);
}

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  run_hopper(problem, args, lane, hopper_plan(problem, args.q.extent[0]));
}

}  // namespace fulgurite::compressed_attention
