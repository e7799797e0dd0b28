// Two products over the same rows of x, which stay in the cache between them.

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

int64_t workspace_bytes(const Problem& problem, int threads) {
  return threads * cpu::matmul_scratch(problem.hidden) * static_cast<int64_t>(sizeof(float));
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<const float, 2> x = args.x.as<float>();
  const View<float, 2> k = args.k.as<float>();
  const cpu::Rows rows{x.data, x.stride[0], x.extent[0]};
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
  auto* const scratch = reinterpret_cast<float*>(lane.workspace.data());
  cpu::matmul(kernels, lane, {rows, args.wk, 0, problem.head_dim, k.data, k.stride[0]}, scratch);
  cpu::matmul(kernels, lane, {rows, args.gate_weight, 0, problem.heads, args.gate.data, args.gate.stride[0]},
              scratch);
  if (problem.setting.numerics.gate == Gate::kFp32) return;
  for (int64_t t = 0; t < x.extent[0]; ++t)
    for (int64_t h = 0; h < problem.heads; ++h) args.gate(t, h) = round_to_bf16(args.gate(t, h));
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::indexer_projection
