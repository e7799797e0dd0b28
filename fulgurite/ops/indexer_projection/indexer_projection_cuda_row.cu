// The row of the catalog: the contract's views as the kernels' parameters.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_rules.h"

namespace fulgurite::indexer_projection {
namespace {

struct Rows {
  const uint16_t* data;
  int64_t stride;
};

Rows rows_of(const PreparedMatrix& matrix) {
  const auto& rows = std::get<View<const bf16, 2>>(matrix.as);
  return {reinterpret_cast<const uint16_t*>(rows.data), rows.stride[0]};
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const Rows wk = rows_of(*args.wk), w = rows_of(*args.gate_weight);
  cuda::Params params;
  params.x = reinterpret_cast<const uint16_t*>(args.x.data);
  params.x_stride = args.x.stride[0];
  params.wk = wk.data;
  params.wk_stride = wk.stride;
  params.w = w.data;
  params.w_stride = w.stride;
  params.k = reinterpret_cast<uint16_t*>(args.k.data);
  params.k_stride = args.k.stride[0];
  params.gate = args.gate.data;
  params.gate_stride = args.gate.stride[0];
  params.tokens = static_cast<int>(args.x.extent[0]);
  params.hidden = static_cast<int>(problem.hidden);
  params.heads = static_cast<int>(problem.heads);
  params.round_gate = problem.setting.numerics.gate == Gate::kBf16;
  params.processors = problem.setting.target.multiprocessors;
  cuda::launch(params, static_cast<cudaStream_t>(lane.stream));
  fulgurite::cuda::launched(lane);
}

}  // namespace fulgurite::indexer_projection
