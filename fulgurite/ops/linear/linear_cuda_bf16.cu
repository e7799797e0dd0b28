// The bf16 linear of Hopper, the head among them: the contract's views as the kernels' parameters.

#include "fulgurite/cuda/bf16_product.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/linear/linear_rules.h"

namespace fulgurite::linear {

void run_bf16(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const auto& weight = std::get<View<const bf16, 2>>(args.weight->as);
  cuda::require_aligned(cuda::is_aligned(args.x.data, 2, args.x.stride[0]) &&
                            cuda::is_aligned(weight.data, 2, weight.stride[0]) &&
                            cuda::is_aligned(args.y.data, 2, args.y.stride[0]),
                        "linear");
  cuda::Bf16Product product;
  product.x = reinterpret_cast<const uint16_t*>(args.x.data);
  product.x_stride = args.x.stride[0];
  product.weight = reinterpret_cast<const uint16_t*>(weight.data);
  product.weight_stride = weight.stride[0];
  product.y = args.y.data;
  product.y_stride = args.y.stride[0];
  product.is_f32 = args.y.dtype == DType::kF32;
  product.tokens = static_cast<int>(args.x.extent[0]);
  product.in = static_cast<int>(problem.in);
  product.out = static_cast<int>(problem.out);
  product.parts = static_cast<int>(problem.order.parts);
  product.dependent = !lane.waits;
  product.processors = problem.setting.target.multiprocessors;
  cuda::check(cuda::launch_product(product, static_cast<cudaStream_t>(lane.stream)), "linear");
  cuda::launched(lane);
}

}  // namespace fulgurite::linear
