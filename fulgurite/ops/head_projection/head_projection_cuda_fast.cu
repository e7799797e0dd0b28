// The row of Hopper's kernels.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/head_projection/head_projection_cuda_hopper.h"

namespace fulgurite::head_projection {
namespace {

Support takes_target(const Target& target) {
  if (target.kind == DeviceKind::kCuda && target.sm == 90) return std::nullopt;
  return Refusal{"target " + name(target) + ", takes sm90"};
}

Support takes_shape(const Problem& problem) {
  if (problem.weight.form != MatrixForm::kBF16)
    return Refusal{"weight in " + describe(problem.weight) + ", takes bf16"};
  if (hopper::takes(problem.direction, problem.rows, problem.latent)) return std::nullopt;
  return Refusal{std::to_string(problem.rows) + " rows of " + std::to_string(problem.latent) +
                 ", takes 128 or 192 into and 128 or 256 out of a latent space of a multiple of 64"};
}

Support supports(const Problem& problem) {
  return first_refusal({takes_target(problem.setting.target),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes(problem.setting.numerics.mma, {Mma::kExact}), takes_shape(problem)});
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<View<const bf16, 2>>(args.weight->as);
  hopper::Params params;
  params.direction = problem.direction;
  params.x = reinterpret_cast<const uint16_t*>(args.x.data);
  params.x_token_stride = args.x.stride[0];
  params.x_head_stride = args.x.stride[1];
  params.weight = reinterpret_cast<const uint16_t*>(weight.data);
  params.weight_stride = weight.stride[0];
  params.y = reinterpret_cast<uint16_t*>(args.y.data);
  params.y_token_stride = args.y.stride[0];
  params.y_head_stride = args.y.stride[1];
  params.tokens = static_cast<int>(args.x.extent[0]);
  params.heads = static_cast<int>(problem.heads);
  params.rows_per_head = static_cast<int>(problem.rows_per_head);
  params.first_row = static_cast<int>(problem.first_row);
  params.rows = static_cast<int>(problem.rows);
  params.latent = static_cast<int>(problem.latent);
  hopper::launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::head_projection
