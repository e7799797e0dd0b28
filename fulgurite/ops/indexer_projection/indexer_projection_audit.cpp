#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::indexer_projection {
namespace {

audit::OutputReport compare(const char* name, const ConstTensor<2>& actual, const ConstTensor<2>& expected,
                            const std::vector<linear::SumBound>& sums, DType rounding) {
  std::vector<double> bounds;
  for (const linear::SumBound& sum : sums) bounds.push_back(linear::rounded_bound(sum, rounding));
  return {name, audit::compare(audit::values(actual), audit::values(expected), bounds)};
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> k(args.k.dtype, args.k.extent), gate(DType::kF32, args.gate.extent);
  kReference.run(problem, {args.x, args.wk, args.gate_weight, k.view(), gate.view().as<float>()}, {});
  row.run(problem, args, lane);
  const bool rounds_gate = problem.setting.numerics.gate == Gate::kBf16;
  audit::OpReport report;
  report.outputs.push_back(
      compare("k", args.k, k.view(),
              linear::sum_bounds(key_linear(problem), key_reading(problem), args.x, *args.wk), args.k.dtype));
  report.outputs.push_back(
      compare("gate", Tensor<2>(args.gate), gate.view(),
              linear::sum_bounds(gate_linear(problem), WeightReading::kExact, args.x, *args.gate_weight),
              rounds_gate ? DType::kBF16 : DType::kF32));
  return report;
}

}  // namespace fulgurite::indexer_projection
