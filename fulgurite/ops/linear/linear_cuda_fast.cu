// The row of Hopper's kernels. What they take is what cuda_fp8's rule says of sm90.

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/linear/linear_cuda_hopper.h"

namespace fulgurite::linear {
namespace {

Support supports(const Problem& problem) {
  const Target& target = problem.setting.target;
  if (target.kind != DeviceKind::kCuda || target.sm != 90)
    return Refusal{"target " + name(target) + ", takes sm90"};
  return kCudaFp8.supports(problem);
}

int64_t workspace_bytes(const Problem& problem, int) {
  return hopper::workspace_bytes(problem.largest_batch, problem.in);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<BlockScaled>(args.weight->as);
  hopper::Params params;
  params.x = reinterpret_cast<const uint16_t*>(args.x.data);
  params.x_stride = args.x.stride[0];
  params.weight = reinterpret_cast<const uint8_t*>(weight.data.data);
  params.weight_stride = weight.data.stride[0];
  params.scale = weight.scale.data;
  params.scale_stride = weight.scale.stride[0];
  params.y = reinterpret_cast<uint16_t*>(args.y.data);
  params.y_stride = args.y.stride[0];
  params.workspace = lane.workspace.data();
  params.tokens = static_cast<int>(args.x.extent[0]);
  params.in = static_cast<int>(problem.in);
  params.out = static_cast<int>(problem.out);
  params.rounding = activation_rounding(problem.setting.numerics);
  hopper::launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::linear
