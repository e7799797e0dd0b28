// The row of Hopper: what it takes. Its kernels are head_projection_cuda_*.cu, which not every build has.

#include "fulgurite/ops/head_projection/head_projection_rules.h"

namespace fulgurite::head_projection {
namespace {

// Into the latent space DeepSeek-V3.2's and GLM-5's rows a head; out of it any.
Support takes_shape(const Problem& problem) {
  const bool out_of = problem.direction == Direction::kToRows;
  const auto is_multiple = [](int64_t value, int64_t of) { return value > 0 && value % of == 0; };
  if (out_of ? is_multiple(problem.rows, 8) && is_multiple(problem.latent, 8)
             : (problem.rows == 128 || problem.rows == 192) && is_multiple(problem.latent, 64))
    return std::nullopt;
  return Refusal{fmt::format("{} rows of {}, takes {}", problem.rows, problem.latent,
                             out_of ? "multiples of 8 out of a latent space"
                                    : "128 or 192 into a latent space of a multiple of 64")};
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

// The weight in bf16, a copy where it is stored otherwise; or as stored, in codes.
Problem states(const Problem& problem) {
  Problem stated = problem;
  stated.setting.numerics.mma = Mma::kHopper;
  if (!meets_codes(problem)) stated.weight = MatrixFormat{MatrixForm::kBF16, {}};
  return stated;
}

std::string sums(const Problem& problem) {
  return meets_codes(problem) ? "products by wgmma of bf16, made of codes as they come"
                              : "products by wgmma of bf16";
}

}  // namespace

// Whole groups: W_UK and W_UV are of one matrix, which both meet in one form.
bool meets_codes(const Problem& problem) {
  const MatrixFormat codes{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kE8M0};
  const bool whole = problem.rows == problem.rows_per_head && problem.rows > 256;
  return problem.weight == codes && problem.direction == Direction::kToRows && whole &&
         problem.rows % 128 == 0 && problem.latent % 128 == 0;
}

const Implementation kCudaHopper{
    "cuda_hopper", supports, no_workspace<Problem>, FULGURITE_KERNEL(run_hopper), DeviceKind::kCuda, nullptr,
    states,        sums};

}  // namespace fulgurite::head_projection
