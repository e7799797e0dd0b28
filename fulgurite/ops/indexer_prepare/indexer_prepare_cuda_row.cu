// The row of the catalog: the contract's views as the kernel's parameters.

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_rules.h"

namespace fulgurite::indexer_prepare {
namespace {

void set_queries(const Args& args, cuda::Params& params) {
  params.q = reinterpret_cast<const uint16_t*>(args.q.data);
  params.q_token_stride = args.q.stride[0];
  params.q_head_stride = args.q.stride[1];
  if (args.q_operand.dtype == DType::kBF16)
    params.q_values = reinterpret_cast<uint16_t*>(args.q_operand.data);
  else
    params.q_codes = reinterpret_cast<uint8_t*>(args.q_operand.data);
  params.code_token_stride = args.q_operand.stride[0];
  params.code_head_stride = args.q_operand.stride[1];
  params.gate = args.gate.data;
  params.gate_stride = args.gate.stride[0];
  params.weights = args.weights.data;
  params.weights_stride = args.weights.stride[0];
}

void set_keys(const Args& args, cuda::Params& params) {
  params.k = reinterpret_cast<const uint16_t*>(args.k.data);
  params.k_stride = args.k.stride[0];
  params.k_weight = args.k_weight.data;
  params.k_bias = args.k_bias.data;
  params.key_pages = reinterpret_cast<uint8_t*>(args.key_cache.keys.data);
  params.page_stride = args.key_cache.keys.stride[0];
  params.block_table = args.key_cache.pages.table.data;
  params.block_table_stride = args.key_cache.pages.table.stride[0];
}

void set_numerics(const Problem& problem, cuda::Params& params) {
  const Numerics& n = problem.setting.numerics;
  params.epsilon = n.index_norm_eps;
  params.interleaved = layout_in_force(problem) == rotary::Layout::kInterleaved;
  params.rotates_last = problem.rope_first > 0;
  params.hadamard_q = n.hadamard != Hadamard::kNone;
  params.hadamard_k = n.hadamard == Hadamard::kBoth;
  params.pow2 = index_rounding(n) == ScaleRounding::kPow2;
  params.round_norm = n.index_norm == IndexNorm::kBf16;
  params.round_gate = !problem.keys && n.gate == Gate::kBf16;
  params.two_step_rsqrt = n.rsqrt == Rsqrt::kTwoStep;
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Params params;
  params.tokens = static_cast<int>(args.q.extent[0]);
  params.heads = static_cast<int>(problem.heads);
  params.places = reinterpret_cast<const int2*>(args.places.data);
  params.cosine = args.table.cosine.data;
  params.sine = args.table.sine.data;
  set_queries(args, params);
  if (problem.keys) set_keys(args, params);
  set_numerics(problem, params);
  params.dependent = !lane.waits;
  cuda::launch(params, static_cast<cudaStream_t>(lane.stream));
  fulgurite::cuda::launched(lane);
  if (args.rotated_q) show_rotated(problem, args, lane);
}

}  // namespace fulgurite::indexer_prepare
