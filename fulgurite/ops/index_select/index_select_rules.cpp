// The row of Hopper: what it takes. Its kernels are index_select_cuda_*.cu, which not every build has.

#include "fulgurite/ops/index_select/index_select_rules.h"

#include <algorithm>

namespace fulgurite::index_select {
namespace {

constexpr int64_t kLogitsBudget = int64_t{128} << 20;  // bytes of logits at a time, or a row
constexpr int64_t kMostSelected = 2048, kMostRows = int64_t{1} << 20;

bool of_codes(const Problem& problem) { return problem.setting.numerics.index_quant == IndexQuant::kFp8; }

Support takes_shape(const Problem& problem) {
  const int64_t pages = of_codes(problem) ? kPageTokens : 0;
  if (problem.page_tokens != pages || problem.head_dim != 128)
    return Refusal{fmt::format("keys of {} in pages of {} tokens, takes 128 in pages of {}", problem.head_dim,
                               problem.page_tokens, pages)};
  if (problem.heads != 8 && problem.heads != 16 && problem.heads != 32 && problem.heads != 64)
    return Refusal{fmt::format("{} heads, takes 8, 16, 32 or 64", problem.heads)};
  if (problem.topk > kMostSelected || problem.context > kMostRows)
    return Refusal{fmt::format("top {} of {}, takes at most {} of {}", problem.topk, problem.context,
                               kMostSelected, kMostRows)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  return first_refusal({takes_sm(problem.setting.target, 90),
                        takes(n.index_quant, {IndexQuant::kFp8, IndexQuant::kFp4, IndexQuant::kNone}),
                        of_codes(problem) ? std::nullopt : takes(n.activation, {Activation::kBf16}),
                        takes(n.ties, {Ties::kLower}), takes_shape(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) { return workspace_bytes_hopper(problem); }

Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  stated.head_order = {4, 2, SumOrder::Merge::kPairwise};
  return stated;
}

std::string sums(const Problem& problem) {
  return std::string("products by ") + (of_codes(problem) ? "wgmma" : "mma.sync of bf16") +
         "; the heads in 4 parts, (h / 2) % 4, added pairwise";
}

}  // namespace

int64_t workspace_bytes_hopper(const Problem& problem) {
  const int64_t row = row_bytes(problem.context);
  return row * std::min(problem.largest_batch, std::max<int64_t>(kLogitsBudget / row, 1));
}

const Implementation kCudaHopper{"cuda_hopper",     supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda, nullptr,  states,          sums};

}  // namespace fulgurite::index_select
