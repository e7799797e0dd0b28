// The row of Hopper: what it takes. Its kernels are experts_cuda_*.cu, which not every build has.

#include "fulgurite/ops/experts/experts_rules.h"

#include <algorithm>

#include "fulgurite/core/hopper_setting.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/experts/experts_cuda_memory.h"

namespace fulgurite::experts {
namespace {

constexpr int64_t kMostSlots = 32;

Support takes_part(const Problem& problem, Part part) {
  const linear::Problem linear = gate_problem(problem, part);
  const MatrixFormat& format = linear.weight;
  const bool plain = format.form == MatrixForm::kBF16;
  if (!plain && format.form != MatrixForm::kE4M3Blocks && format.form != MatrixForm::kMxfp4)
    return Refusal{"weight = " + describe(format) + ", takes bf16, e4m3 or MXFP4"};
  if (linear.in % 32 != 0 || linear.out % 32 != 0)
    return Refusal{fmt::format("{} x {}, takes multiples of 32", linear.in, linear.out)};
  if (!plain && !linear::quantizes(linear))
    return takes(problem.setting.numerics.activation_quant, {ActivationQuant::kE4m3});
  if (format.form == MatrixForm::kE4M3Blocks && format.block.columns != kActivationGroup &&
      format.block.columns < linear.in)
    return Refusal{fmt::format("scales of {} columns, takes 128 or all", format.block.columns)};
  return std::nullopt;
}

Support supports(const Problem& problem) {
  Support routed, shared;
  if (problem.experts > 0) routed = takes_part(problem, Part::kRouted);
  if (problem.shared_width > 0) shared = takes_part(problem, Part::kShared);
  if (problem.experts >= kMostExperts || problem.experts_per_token > kMostSlots)
    return Refusal{fmt::format("{} of {} experts, takes {} of fewer than {}", problem.experts_per_token,
                               problem.experts, kMostSlots, kMostExperts)};
  return first_refusal({takes_hopper_setting(problem.setting),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}), routed, shared,
                        kReference.supports(problem)});
}

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  memory_of(problem, std::min(problem.largest_batch, kChunkTokens), scratch);
  return scratch.used();
}

}  // namespace

const Implementation kCudaHopper{"cuda_hopper", supports, workspace_bytes, FULGURITE_KERNEL(run_hopper),
                                 DeviceKind::kCuda};

}  // namespace fulgurite::experts
