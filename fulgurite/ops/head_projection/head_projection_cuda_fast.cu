// The row of the catalog: the contract's views as the kernels' parameters. Heads of DeepSeek-V3.2 and GLM-5 have kernels
// of their own; DeepSeek-V4's groups are a product of groups, of codes (cuda/coded_product.h) or of bf16.

#include "fulgurite/cuda/bf16_product.h"
#include "fulgurite/cuda/coded_product.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/head_projection/head_projection_cuda_hopper.h"
#include "fulgurite/ops/head_projection/head_projection_rules.h"

namespace fulgurite::head_projection {
namespace {

const uint16_t* bits(const std::byte* data) { return reinterpret_cast<const uint16_t*>(data); }

void run_heads(const Problem& problem, const Args& args, const Lane& lane) {
  const auto& weight = std::get<View<const bf16, 2>>(args.weight->as);
  hopper::Params params;
  params.direction = problem.direction;
  params.x = bits(args.x.data);
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
}

void require_aligned(const Args& args) {
  cuda::require_aligned(cuda::is_aligned(args.x.data, 2, args.x.stride[0], args.x.stride[1]) &&
                            cuda::is_aligned(args.y.data, 2, args.y.stride[0], args.y.stride[1]),
                        "head_projection");
}

// What both kinds of products say alike.
template <class Product>
Product product_of(const Problem& problem, const Args& args, const Lane& lane) {
  Product product;
  product.x = bits(args.x.data);
  product.x_stride = args.x.stride[0];
  product.x_group_stride = args.x.stride[1];
  product.y = reinterpret_cast<uint16_t*>(args.y.data);
  product.y_stride = args.y.stride[0];
  product.y_group_stride = args.y.stride[1];
  product.tokens = static_cast<int>(args.x.extent[0]);
  product.groups = static_cast<int>(problem.heads);
  product.in = static_cast<int>(problem.latent);
  product.out = static_cast<int>(problem.rows);
  product.dependent = !lane.waits;
  product.processors = problem.setting.target.multiprocessors;
  return product;
}

template <class Product>
void launch(const Product& product, const Lane& lane) {
  cuda::check(cuda::launch_product(product, static_cast<cudaStream_t>(lane.stream)), "head_projection");
}

void run_codes(const Problem& problem, const Args& args, const Lane& lane) {
  const auto& weight = std::get<BlockScaled>(args.weight->as);
  require_aligned(args);
  cuda::require_aligned(cuda::is_aligned(weight.data.data, 1, weight.data.stride[0]), "head_projection");
  auto product = product_of<cuda::CodedProduct>(problem, args, lane);
  product.codes = reinterpret_cast<const uint8_t*>(weight.data.data);
  product.codes_stride = weight.data.stride[0];
  product.exponents = reinterpret_cast<const uint8_t*>(weight.exponents.data);
  product.exponents_stride = weight.exponents.stride[0];
  product.rows_per_group = static_cast<int>(problem.rows_per_head);
  launch(product, lane);
}

// One accumulation, as the heads' kernels: parts = 1.
void run_groups(const Problem& problem, const Args& args, const Lane& lane) {
  const auto& weight = std::get<View<const bf16, 2>>(args.weight->as);
  require_aligned(args);
  cuda::require_aligned(cuda::is_aligned(weight.data, 2, weight.stride[0]), "head_projection");
  auto product = product_of<cuda::Bf16Product>(problem, args, lane);
  product.weight = reinterpret_cast<const uint16_t*>(weight.data) + problem.first_row * weight.stride[0];
  product.weight_stride = weight.stride[0];
  product.weight_group_stride = problem.rows_per_head * weight.stride[0];
  launch(product, lane);
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  if (hopper::takes(problem.direction, problem.rows, problem.latent))
    run_heads(problem, args, lane);
  else if (has_scales(problem.weight))
    run_codes(problem, args, lane);
  else
    run_groups(problem, args, lane);
  cuda::launched(lane);
}

}  // namespace fulgurite::head_projection
