// The row of Hopper: what it takes, and how it is launched. Its kernels are compressed_attention_cuda_*.cu, which not every
// build has.

#include "fulgurite/ops/compressed_attention/compressed_attention_rules.h"

#include <algorithm>
#include <bit>

#include "fulgurite/core/launches.h"

namespace fulgurite::compressed_attention {
namespace {

constexpr int64_t kTile = 64, kMostRuns = 32, kProcessors = 132;  // whatever a device has: runs change bits

Support takes_shape(const Problem& problem) {
  if (problem.head_dim != 512 || problem.rope != 64)
    return Refusal{
        fmt::format("rows of {}, {} of them rotated, takes 512 and 64", problem.head_dim, problem.rope)};
  if (problem.heads == 0 || problem.heads % 8 != 0)
    return Refusal{fmt::format("{} heads, takes multiples of 8", problem.heads)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal(
      {takes_sm(problem.setting.target, 90), takes(n.activation, {Activation::kBf16}),
       takes(n.mla, {Mla::kAbsorbed}), takes(n.latent_cache, {LatentCache::kFp8}), takes_kv_row(n),
       takes(n.qk_operands, {QkOperands::kBf16}), takes(n.softmax_tile, {SoftmaxTile::k64}),
       takes(n.softmax_merge, {SoftmaxMerge::kRunning}),
       takes(n.softmax_denominator, {SoftmaxDenominator::kUnrounded}), takes(n.softmax_p, {SoftmaxP::kBf16}),
       takes(n.mma, {Mma::kExact}), takes_shape(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) {
  return most_of_launches(problem.largest_batch, [&](int64_t tokens) {
    return hopper_workspace_bytes(tokens, problem.heads, hopper_plan(problem, tokens).splits);
  });
}

Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.runs = kMostRuns;
  return stated;
}

std::string sums(const Problem& problem) {
  return "runs of the keys:" + describe_runs(problem.largest_batch, [&](int64_t tokens) {
           return hopper_plan(problem, tokens).splits;
         });
}

}  // namespace

// Few tokens: blocks of as few heads as leave every tile a block of its own, so that each reads and writes little. Otherwise as
// many runs as fill the processors once, two tiles each at least.
HopperPlan hopper_plan(const Problem& problem, int64_t tokens) {
  const int64_t entries = problem.topk > 0 ? problem.topk : problem.ratio > 0 ? problem.entries : 0;
  const int64_t tiles = std::min(kMostRuns, (problem.window + entries + kTile - 1) / kTile);
  const auto rows = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(std::max<int64_t>(tokens, 1))));
  HopperPlan plan;
  for (const int32_t heads : {8, 16, 32, 64}) {
    if (problem.heads % heads != 0) break;
    plan.block_heads = heads;
    plan.splits = static_cast<int32_t>(tiles);
    if (heads < 64 && rows * (problem.heads / heads) * tiles <= kProcessors) return plan;
  }
  plan.splits = static_cast<int32_t>(std::clamp<int64_t>(
      kProcessors / (rows * (problem.heads / plan.block_heads)), 1, std::max<int64_t>(tiles / 2, 1)));
  return plan;
}

int64_t hopper_workspace_bytes(int64_t tokens, int64_t heads, int64_t splits) {
  return splits == 1 ? 0 : tokens * heads * splits * (512 * 4 + 8);
}

const Implementation kCudaHopper{"cuda_hopper",     supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda, nullptr,  states,          sums};

}  // namespace fulgurite::compressed_attention
