#include "fulgurite/ops/head_projection/head_projection_audit.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::head_projection {
namespace {

using linear::growth;
using linear::SumBound;

// How many roundings a term meets on its way into an implementation's sum, at most.
double roundings(const Problem& problem) {
  const bool from_rows = problem.direction == Direction::kFromRows;
  const auto terms = static_cast<double>(from_rows ? problem.rows : problem.latent);
  const double fp32 = (from_rows ? terms : terms / 16) + 7;
  return problem.setting.numerics.activation == Activation::kFp32 ? fp32 : std::max(terms + 1, fp32);
}

SumBound bound_of(const Problem& problem, std::span<const double> x, std::span<const double> w) {
  double sum = 0.0, products = 0.0, flushed = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += x[i] * w[i];
    products += std::abs(x[i] * w[i]);
    flushed += 0x1p-126 * (2.0 + std::abs(x[i]) + std::abs(w[i]));
  }
  const bool fp32 = problem.setting.numerics.activation == Activation::kFp32;
  const double denormals = fp32 ? static_cast<double>(x.size()) * 0x1p-149 : flushed;
  return {sum, growth(roundings(problem)) * products + denormals, growth(1) * std::abs(sum) + 0x1p-150};
}

// The weights that meet x in output n of a head.
std::vector<double> weights(const Problem& problem, const PreparedMatrix& weight, int64_t head, int64_t n) {
  const bool from_rows = problem.direction == Direction::kFromRows;
  const int64_t first = head * problem.rows_per_head + problem.first_row;
  std::vector<double> out;
  for (int64_t i = 0; i < (from_rows ? problem.rows : problem.latent); ++i)
    out.push_back(from_rows ? element(weight, reading_of(problem), first + i, n)
                            : element(weight, reading_of(problem), first + n, i));
  return out;
}

std::vector<double> bounds(const Problem& problem, const Args& args) {
  const int64_t tokens = args.x.extent[0], width = args.y.extent[2];
  const std::vector<float> stored = audit::values(args.x);
  const std::vector<double> x(stored.begin(), stored.end());
  const auto terms = static_cast<size_t>(args.x.extent[2]);
  std::vector<double> out(static_cast<size_t>(tokens * problem.heads * width));
  for (int64_t h = 0; h < problem.heads; ++h) {
    for (int64_t n = 0; n < width; ++n) {
      const std::vector<double> w = weights(problem, *args.weight, h, n);
      for (int64_t t = 0; t < tokens; ++t) {
        const auto row = static_cast<size_t>(t * problem.heads + h);
        const SumBound bound = bound_of(problem, std::span(x).subspan(row * terms, terms), w);
        out[row * static_cast<size_t>(width) + static_cast<size_t>(n)] =
            linear::rounded_bound(bound, args.y.dtype);
      }
    }
  }
  return out;
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> y(args.y.dtype, args.y.extent);
  kReference.run(problem, {args.x, args.weight, y.view()}, {});
  row.run(problem, args, lane);
  audit::OpReport report;
  report.outputs.push_back(
      {"y", audit::compare(audit::values(args.y), audit::values(y.view()), bounds(problem, args))});
  return report;
}

}  // namespace fulgurite::head_projection
