// The row of the catalog: the contract's views as the kernels' parameters.

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/linear/linear_cuda_hopper.h"
#include "fulgurite/ops/linear/linear_rules.h"

namespace fulgurite::linear {
void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<BlockScaled>(args.weight->as);
  hopper::Params params;
  params.x = reinterpret_cast<const uint16_t*>(args.x.data);
  params.x_stride = args.x.stride[0];
  params.weight = reinterpret_cast<const uint8_t*>(weight.data.data);
  params.weight_stride = weight.data.stride[0];
  const bool exponents = weight.format == ScaleFormat::kE8M0;
  if (exponents)
    params.exponents = reinterpret_cast<const uint8_t*>(weight.exponents.data);
  else
    params.scale = weight.scale.data;
  params.scale_stride = exponents ? weight.exponents.stride[0] : weight.scale.stride[0];
  params.y = reinterpret_cast<uint16_t*>(args.y.data);
  params.y_stride = args.y.stride[0];
  params.workspace = lane.workspace.data();
  params.tokens = static_cast<int>(args.x.extent[0]);
  params.in = static_cast<int>(problem.in);
  params.out = static_cast<int>(problem.out);
  params.rounding = activation_rounding(problem.setting.numerics);
  params.dependent = !lane.waits;
  params.processors = problem.setting.target.multiprocessors;
  hopper::launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace fulgurite::linear
