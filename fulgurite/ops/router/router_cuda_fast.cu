// The row of both kernels, over chunks of tokens.

#include <algorithm>

#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/router/router_cuda_kernels.h"

namespace fulgurite::router {
namespace {

constexpr int64_t kChunk = 512;  // tokens that are scored at once

Support takes_sizes(const Problem& problem) {
  if (problem.hidden % 8 != 0 || problem.hidden == 0)
    return Refusal{fmt::format("hidden = {}, takes multiples of 8", problem.hidden)};
  if (problem.experts > kMostExperts || problem.groups > kMostGroups ||
      problem.experts_per_token > kMostChosen)
    return Refusal{fmt::format("{} of {} experts in {} groups, takes {} of {} in {}",
                               problem.experts_per_token, problem.experts, problem.groups, kMostChosen,
                               kMostExperts, kMostGroups)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  return first_refusal(
      {takes_sizes(problem), cuda::takes_fast(problem.setting), kReference.supports(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  scratch.take<double>(kParts * kChunk * problem.experts);
  return scratch.used();
}

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

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::require_aligned(is_aligned(args), "router");
  auto* const parts = reinterpret_cast<double*>(lane.workspace.data());
  const int64_t tokens = args.x.extent[0];
  for (int64_t first = 0; first < tokens; first += kChunk) {
    const Args part = of_tokens(problem, args, first, std::min(kChunk, tokens - first));
    launch_logits(part, parts, lane);
    launch_choice(problem, part, parts, lane);
  }
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::router
