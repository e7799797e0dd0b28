#include "fulgurite/core/bf16.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/indexer_projection/indexer_projection.h"

namespace fulgurite::indexer_projection {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  return std::max(linear::kCuda.workspace_bytes(key_linear(problem), threads),
                  linear::kCuda.workspace_bytes(gate_linear(problem), threads));
}

// Index: an element of the gate.
struct RoundGate {
  View<float, 2> gate;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    float& value = gate(index / gate.extent[1], index % gate.extent[1]);
    value = round_to_bf16(value);
  }
};

// Two linears, one after the other: they share the workspace.
void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  linear::kCuda.run(key_linear(problem), {args.x, args.wk, args.k}, lane);
  linear::kCuda.run(gate_linear(problem), {args.x, args.gate_weight, args.gate}, lane);
  if (problem.setting.numerics.gate == Gate::kBf16)
    cuda::for_each(lane, args.gate.size(), RoundGate{args.gate});
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::indexer_projection
