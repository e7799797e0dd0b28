// The row of Hopper: what it takes, and how it is launched. Its kernels are sparse_attention_cuda_*.cu, which not every build has.

#include "fulgurite/ops/sparse_attention/sparse_attention_rules.h"

#include <algorithm>
#include <bit>

#include "fulgurite/core/launches.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr int64_t kLatent = 512, kTile = 64, kMostRuns = 32,
                  kProcessors = 132;  // whatever a device has: runs change bits

Support takes_shape(const Problem& problem) {
  const int64_t h = problem.heads;
  if (problem.latent != kLatent || problem.rope != 64)
    return Refusal{fmt::format("rows of {} + {}, takes 512 + 64", problem.latent, problem.rope)};
  if (h != 8 && h != 16 && h != 32 && h != 64 && h != 128)
    return Refusal{fmt::format("{} heads, takes 8, 16, 32, 64 or 128", h)};
  if (problem.page_tokens != kPageTokens)
    return Refusal{fmt::format("pages of {} tokens, takes {}", problem.page_tokens, kPageTokens)};
  return std::nullopt;
}

Support takes_rows(const Problem& problem) {
  const LatentCache form = problem.setting.numerics.latent_cache;
  if (form == LatentCache::kBf16 && problem.heads < 64)
    return Refusal{fmt::format("rows of bf16 for {} heads, takes 64 or 128", problem.heads)};
  return takes(form, {LatentCache::kFp8, LatentCache::kBf16});
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes_sm(problem.setting.target, 90), takes(n.activation, {Activation::kBf16}),
                        takes(n.mla, {Mla::kAbsorbed}), takes(n.qk_operands, {QkOperands::kBf16}),
                        takes(n.softmax_tile, {SoftmaxTile::k64}),
                        takes(n.softmax_merge, {SoftmaxMerge::kRunning}),
                        takes(n.softmax_denominator, {SoftmaxDenominator::kUnrounded}),
                        takes(n.softmax_p, {SoftmaxP::kBf16}), takes_shape(problem), takes_rows(problem)});
}

HopperPlan plan_of(const Problem& problem, int64_t tokens) {
  return hopper_plan(problem.setting.numerics.latent_cache, tokens, problem.heads, problem.topk);
}

int64_t workspace_bytes(const Problem& problem, int) {
  return most_of_launches(problem.largest_batch, [&](int64_t tokens) {
    return hopper_workspace_bytes(tokens, problem.heads, plan_of(problem, tokens).splits);
  });
}

Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  stated.runs = kMostRuns;
  return stated;
}

std::string sums(const Problem& problem) {
  return "scores by wgmma; runs of a list:" + describe_runs(problem.largest_batch, [&](int64_t tokens) {
           return plan_of(problem, tokens).splits;
         });
}

}  // namespace

// Few tokens: blocks of as few heads as leave eight to share the processors, so that each writes little. Otherwise as many runs
// as fill the processors once (64 heads take one, of fewer heads two blocks fit); two tiles each at least.
HopperPlan hopper_plan(LatentCache form, int64_t tokens, int64_t heads, int64_t topk) {
  const int64_t tiles = std::min(kMostRuns, (topk + kTile - 1) / kTile);
  const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(tokens, 1))));
  HopperPlan plan{1, static_cast<int32_t>(heads == 32 ? 16 : std::min<int64_t>(heads, 64))};
  int64_t most = std::max<int64_t>(tiles / 2, 1),
          places = plan.block_heads == 64 ? kProcessors : 2 * kProcessors;
  for (const int32_t block : {16, 8})
    if (form == LatentCache::kFp8 && block <= heads && rows * (heads / block) <= 8) {
      plan.block_heads = block;
      places = kProcessors;
      most = tiles;
    }
  plan.splits =
      static_cast<int32_t>(std::clamp<int64_t>(places / (rows * (heads / plan.block_heads)), 1, most));
  return plan;
}

int64_t hopper_workspace_bytes(int64_t tokens, int64_t heads, int64_t splits) {
  return splits == 1 ? 0 : tokens * heads * splits * (kLatent * 4 + 8);
}

const Implementation kCudaHopper{"cuda_hopper",     supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda, nullptr,  states,          sums};

}  // namespace fulgurite::sparse_attention
