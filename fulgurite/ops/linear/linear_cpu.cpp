// Weights stay as stored: eight rows at a time are decoded to fp32 (at most a second-level cache full) and
// met by all tokens.

#include "fulgurite/cpu/matmul.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support supports(const Problem& problem) { return sums_of_exact_weights(problem); }

int64_t workspace_bytes(const Problem& problem, int threads) {
  return threads * cpu::matmul_scratch(problem.in) * static_cast<int64_t>(sizeof(float));
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<const float, 2> x = args.x.as<float>();
  const View<float, 2> y = args.y.as<float>();
  const cpu::Rows rows{x.data, x.stride[0], x.extent[0]};
  cpu::matmul(cpu::kernels(problem.setting.target.isa), lane,
              {rows, args.weight, 0, problem.out, y.data, y.stride[0]},
              reinterpret_cast<float*>(lane.workspace.data()));
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::linear
