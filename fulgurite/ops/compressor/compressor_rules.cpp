// The row of Hopper: what it takes. Its kernels are indexer_projection's and compressor_cuda_windows.cu, which not
// every build has.

#include "fulgurite/ops/compressor/compressor_rules.h"

#include <algorithm>

namespace fulgurite::compressor {
namespace {

constexpr MatrixFormat kBf16{MatrixForm::kBF16, {}};

Support takes_weight(const char* what, const MatrixFormat& weight) {
  if (weight == kBf16) return std::nullopt;
  return Refusal{fmt::format("{} in {}, takes bf16", what, describe(weight))};
}

Support takes_shape(const Problem& problem) {
  if (problem.hidden % 16 != 0 || problem.dim % 64 != 0 || problem.dim > 512)
    return Refusal{fmt::format("rows of {}, hidden {}, takes multiples of 64 to 512 and of 16", problem.dim,
                               problem.hidden)};
  const int64_t nope = problem.dim - problem.rope;
  if (problem.kind == Kind::kEntries && nope % KvRow::kGroup != 0)
    return Refusal{fmt::format("{} values before the rotated ones, takes multiples of 64", nope)};
  return std::nullopt;
}

// Both sums on tensor cores, K in 16 parts.
Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  stated.order = {16, 0, SumOrder::Merge::kPairwise};
  return stated;
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes_sm(problem.setting.target, 90), takes(n.mma, {Mma::kExact}),
                        takes(n.activation, {Activation::kBf16}),
                        takes(n.rsqrt, {Rsqrt::kCorrect, Rsqrt::kTwoStep}), takes_weight("wkv", problem.wkv),
                        takes_weight("wgate", problem.wgate), takes_shape(problem),
                        kReference.supports(states(problem))});
}

int64_t workspace_bytes(const Problem& problem, int) {
  return tokens_at_once(problem) * 2 * width(problem) * static_cast<int64_t>(sizeof(float));
}

std::string sums(const Problem&) {
  return "products by wgmma and mma.sync of bf16; K in 16 parts, added pairwise";
}

}  // namespace

int64_t tokens_at_once(const Problem& problem) { return std::clamp<int64_t>(problem.largest_batch, 1, 2048); }

const Implementation kCudaHopper{"cuda_hopper",     supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda, nullptr,  states,          sums};

}  // namespace fulgurite::compressor
