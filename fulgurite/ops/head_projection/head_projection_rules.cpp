// The row of Hopper: what it takes. Its kernels are head_projection_cuda_*.cu, which not every build has.

#include "fulgurite/ops/head_projection/head_projection_rules.h"

namespace fulgurite::head_projection {
namespace {

// DeepSeek-V3.2's and GLM-5's rows a head.
Support takes_shape(const Problem& problem) {
  const int64_t wide = problem.direction == Direction::kFromRows ? 192 : 256;
  if ((problem.rows == 128 || problem.rows == wide) && problem.latent > 0 && problem.latent % 64 == 0)
    return std::nullopt;
  return Refusal{fmt::format(
      "{} rows of {}, takes 128 or 192 into and 128 or 256 out of a latent space of a multiple of 64",
      problem.rows, problem.latent)};
}

Support takes_reading(const Problem& problem) {
  if (reading_of(problem) == WeightReading::kBf16 || problem.weight.form == MatrixForm::kBF16)
    return std::nullopt;
  return Refusal{"weight in " + describe(problem.weight) + " read at its exact value, takes bf16"};
}

Support supports(const Problem& problem) {
  return first_refusal({takes_sm(problem.setting.target, 90),
                        takes(problem.setting.numerics.activation, {Activation::kBf16}),
                        takes_reading(problem), takes_shape(problem)});
}

// The weight in bf16: a copy where it is stored otherwise.
Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  stated.weight = MatrixFormat{MatrixForm::kBF16, {}};
  return stated;
}

std::string sums(const Problem&) { return "products by wgmma of bf16"; }

}  // namespace

const Implementation kCudaHopper{
    "cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper), DeviceKind::kCuda, nullptr,
    states,        sums};

}  // namespace fulgurite::head_projection
