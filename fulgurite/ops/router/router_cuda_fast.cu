// The row of both kernels, over chunks of tokens.

#include <algorithm>

#include "fulgurite/ops/router/router_cuda_kernels.h"

namespace fulgurite::router {
namespace {

bool is_aligned(const Args& args) {
  const auto matrix = [](const auto& view) {
    return cuda::is_aligned(view.data, sizeof(*view.data), view.stride[0]);
  };
  const auto* wide = std::get_if<View<const float, 2>>(&args.weight->as);
  return cuda::is_aligned(args.x.data, args.x.element_bytes(), args.x.stride[0]) &&
         (wide ? matrix(*wide) : matrix(std::get<View<const bf16, 2>>(args.weight->as)));
}

Args of_tokens(const Problem& problem, const Args& args, int64_t first, int64_t count) {
  Args part = args;
  part.x = args.x.slice(0, first, count);
  part.expert_ids = args.expert_ids.slice(0, first, count);
  part.expert_weights = args.expert_weights.slice(0, first, count);
  if (problem.hashed) part.ids = args.ids.slice(0, first, count);
  return part;
}

}  // namespace

void run_hopper(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::require_aligned(is_aligned(args), "router");
  auto* const parts = reinterpret_cast<double*>(lane.workspace.data());
  const int64_t tokens = args.x.extent[0];
  for (int64_t first = 0; first < tokens; first += kChunkTokens) {
    const Args part = of_tokens(problem, args, first, std::min(kChunkTokens, tokens - first));
    launch_logits(part, parts, lane);
    launch_choice(problem, part, parts, lane);
  }
}

}  // namespace fulgurite::router
