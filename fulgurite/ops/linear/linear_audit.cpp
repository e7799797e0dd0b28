#include "fulgurite/ops/linear/linear_audit.h"

#include <algorithm>
#include <cmath>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/interval.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite::linear {
namespace {

using Doubles = std::vector<double>;

Doubles exact_row(const ConstTensor<1>& x) {
  Doubles row;
  for (int64_t i = 0; i < x.extent[0]; ++i) row.push_back(load(x, i));
  return row;
}

// The values that the codes of a row stand for.
Doubles coded_row(const Problem& problem, const ConstTensor<1>& x) {
  Doubles row;
  for (int64_t first = 0; first < problem.in; first += kActivationGroup) {
    std::vector<float> group;
    for (int64_t i = first; i < std::min(problem.in, first + kActivationGroup); ++i)
      group.push_back(load(x, i));
    std::vector<e4m3> codes(group.size());
    const double scale = quantize_e4m3(group, activation_rounding(problem.setting.numerics), codes.data());
    for (const e4m3 code : codes) row.push_back(static_cast<double>(to_float(code)) * scale);
  }
  return row;
}

Doubles weight_row(const PreparedMatrix& weight, WeightReading reading, int64_t n) {
  Doubles row;
  for (int64_t i = 0; i < weight.in; ++i) row.push_back(element(weight, reading, n, i));
  return row;
}

double groups_of(const Problem& problem) {
  return std::ceil(static_cast<double>(problem.in) / static_cast<double>(group_columns(problem.weight)));
}

SumBound bound_of(const Problem& problem, const Doubles& x, const Doubles& w) {
  double sum = 0.0, products = 0.0, operands = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    sum += x[i] * w[i];
    products += std::abs(x[i] * w[i]);
    operands += std::abs(x[i]) + std::abs(w[i]);
  }
  const auto in = static_cast<double>(problem.in);
  const double denormal = denormal_loss(problem, operands);
  const double once = growth(1) * std::abs(sum) + 0x1p-150;
  if (quantizes(problem)) {
    const double groups = groups_of(problem), scale = scale_roundings(problem.weight);
    return {sum, growth(kActivationGroup + groups + 1 + scale) * products + denormal,
            growth(groups + 2 + scale) * products + denormal};
  }
  if (problem.setting.numerics.activation == Activation::kFp32)
    return {sum, growth(in / 16 + 7) * products + denormal, once};
  return {sum, growth(std::max(in + 1, in / 16 + 7)) * products + denormal, once};
}

}  // namespace

double scale_roundings(const MatrixFormat& weight) { return weight.form == MatrixForm::kNvfp4 ? 1.0 : 0.0; }

double growth(double roundings) { return roundings * 0x1p-24 / (1.0 - roundings * 0x1p-24); }

double denormal_loss(Isa isa, int64_t terms, double operands) {
  const auto n = static_cast<double>(terms);
  return n * 0x1p-149 + (flushes_denormals(isa) ? 0x1p-126 * (2.0 * n + operands) : 0.0);
}

double denormal_loss(const Problem& problem, double operands) {
  if (quantizes(problem)) return (groups_of(problem) + 1) * 0x1p-149;
  if (problem.setting.numerics.activation == Activation::kFp32)
    return static_cast<double>(problem.in) * 0x1p-149;
  return denormal_loss(problem.setting.target.isa, problem.in, operands);
}

double rounded_bound(const SumBound& bound, DType type) {
  if (!std::isfinite(bound.sum)) return 0.0;
  const Interval actual = rounded(type, Interval::around(bound.sum, bound.actual));
  const Interval reference = rounded(type, Interval::around(bound.sum, bound.reference));
  if (actual.low == reference.high && actual.high == reference.low) return 0.0;  // infinities too
  return std::max(actual.high - reference.low, reference.high - actual.low);
}

std::vector<SumBound> sum_bounds(const Problem& problem, const ConstTensor<2>& x,
                                 const PreparedMatrix& weight) {
  const WeightReading reading = quantizes(problem) ? WeightReading::kExact : reading_of(problem);
  std::vector<Doubles> rows;
  for (int64_t t = 0; t < x.extent[0]; ++t)
    rows.push_back(quantizes(problem) ? coded_row(problem, x[t]) : exact_row(x[t]));
  std::vector<SumBound> bounds(static_cast<size_t>(x.extent[0] * weight.out));
  for (int64_t n = 0; n < weight.out; ++n) {
    const Doubles w = weight_row(weight, reading, n);
    for (size_t t = 0; t < rows.size(); ++t)
      bounds[t * static_cast<size_t>(weight.out) + static_cast<size_t>(n)] = bound_of(problem, rows[t], w);
  }
  return bounds;
}

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> y(args.y.dtype, args.y.extent);
  kReference.run(problem, {args.x, args.weight, y.view()}, {});
  row.run(problem, args, lane);
  std::vector<double> bounds;
  for (const SumBound& bound : sum_bounds(problem, args.x, *args.weight))
    bounds.push_back(rounded_bound(bound, args.y.dtype));
  audit::OpReport report;
  report.outputs.push_back({"y", audit::compare(audit::values(args.y), audit::values(y.view()), bounds)});
  return report;
}

}  // namespace fulgurite::linear
