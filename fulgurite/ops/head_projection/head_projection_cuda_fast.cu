// The row of the catalog: the contract's views as the kernels' parameters.

#include "fulgurite/cuda/check.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/head_projection/head_projection_cuda_hopper.h"
#include "fulgurite/ops/head_projection/head_projection_rules.h"

namespace fulgurite::head_projection {
void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
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
  params.dependent = !lane.waits;
  hopper::launch(params, static_cast<cudaStream_t>(lane.stream));
  cuda::launched(lane);
}

}  // namespace fulgurite::head_projection
