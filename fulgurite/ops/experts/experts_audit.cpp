// The products' errors may tip any of the roundings that follow: of gate, up and their product, of the scale
// and the codes of hidden, of the output. Each value is an interval, and roundings, being monotone, are made
// of its ends. That a value near a tie may take either side is most of the bound of the preset serving: a
// code's step is an eighth of its value.

#include "fulgurite/ops/experts/experts_audit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::experts {
namespace {

using Intervals = std::vector<Interval>;

constexpr double kUnit = 0x1p-24;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr Interval kAnything{-kInfinity, kInfinity};

bool is_known(const Interval& a) { return std::isfinite(a.low) && std::isfinite(a.high); }

// Rounded to fp32 and then to the type; anything where fp32 may overflow.
Interval stored(DType type, Interval a) {
  if (!is_known(a) || a.magnitude() > 0.5 * std::numeric_limits<float>::max()) return kAnything;
  return rounded(type, rounded(DType::kF32, a));
}

Intervals products_of(const linear::Problem& linear, const ConstTensor<2>& x, const PreparedMatrix& weight,
                      DType type) {
  Intervals y;
  for (const linear::SumBound& b : linear::sum_bounds(linear, x, weight))
    y.push_back(stored(type, Interval::around(b.sum, std::max(b.actual, b.reference))));
  return y;
}

double silu(double g) { return g / (1.0 + std::exp(-g)); }

// silu falls until its minimum and rises from there. On either side at most 6 roundings (of them exp's 1.5
// ulp are three), and below -87 the steps of a denormal exponential, times g; the definition's exp is
// infinite from -88.7.
Interval silu(Interval g) {
  constexpr double kLowest = -1.2784645427610738;
  const double a = silu(g.low), b = silu(g.high);
  Interval s{std::min(a, b), std::max(a, b)};
  if (g.holds(kLowest)) s.low = silu(kLowest);
  if (g.low < -88.0) s.high = std::max(s.high, 0.0);
  return widened(s, 6 * kUnit * s.magnitude() + 0x1p-141);
}

// A clamp is exact and monotone.
Interval clamped(Interval a, double low, double high) {
  return {std::clamp(a.low, low, high), std::clamp(a.high, low, high)};
}

// What is multiplied before down: the limit of the part, and a token's weight (1: nothing).
struct Gating {
  double limit = kInfinity, weight = 1.0;
};

Interval gated(Interval gate, Interval up, const Gating& gating, DType type) {
  if (!is_known(gate) || !is_known(up) || !std::isfinite(gating.weight)) return kAnything;
  const Interval product =
      silu(clamped(gate, -kInfinity, gating.limit)) * clamped(up, -gating.limit, gating.limit);
  if (gating.weight == 1.0 || product.magnitude() > 0.5 * std::numeric_limits<float>::max())
    return stored(type, product);
  return stored(type, rounded(DType::kF32, product) * gating.weight);
}

Intervals hidden_of(const Intervals& gate, const Intervals& up, const Gating& gating, DType type) {
  Intervals hidden;
  for (size_t i = 0; i < gate.size(); ++i) hidden.push_back(gated(gate[i], up[i], gating, type));
  return hidden;
}

double quantized(double value, float scale) {
  return static_cast<double>(to_float(to_e4m3(static_cast<float>(value) / scale)));
}

// What code * scale of a value may be, the scale anywhere in [low, high].
Interval coded(Interval value, float low, float high) {
  const Interval codes{quantized(value.low, value.low < 0.0 ? low : high),
                       quantized(value.high, value.high < 0.0 ? high : low)};
  return codes * Interval{low, high};
}

// The same of powers of two: few, so each is tried.
Interval coded_pow2(Interval value, float low, float high) {
  Interval all = coded(value, low, low);
  for (float scale = 2.0f * low; scale <= high; scale *= 2.0f) {
    const Interval one = coded(value, scale, scale);
    all = {std::min(all.low, one.low), std::max(all.high, one.high)};
  }
  return all;
}

// One group of hidden columns through the quantizer.
void quantize(std::span<Interval> group, ScaleRounding rounding) {
  double least = 0.0, most = 0.0;  // the largest magnitude
  for (const Interval& value : group) {
    const bool spans_zero = value.low <= 0.0 && value.high >= 0.0;
    least = std::max(least, spans_zero ? 0.0 : std::min(std::abs(value.low), std::abs(value.high)));
    most = std::max(most, value.magnitude());
  }
  if (!std::isfinite(most)) return std::fill(group.begin(), group.end(), kAnything);
  const float low = e4m3_scale(static_cast<float>(least), rounding);
  const float high = e4m3_scale(static_cast<float>(most), rounding);
  for (Interval& value : group)
    value = rounding == ScaleRounding::kPow2 ? coded_pow2(value, low, high) : coded(value, low, high);
}

void quantize_row(const linear::Problem& linear, Intervals& row) {
  for (size_t first = 0; first < row.size(); first += kActivationGroup)
    quantize(std::span(row).subspan(first, std::min<size_t>(kActivationGroup, row.size() - first)),
             activation_rounding(linear.setting.numerics));
}

// The error of a sum of products, whichever side makes it, relative to the sum of magnitudes.
double roundings_of(const linear::Problem& linear) {
  const auto in = static_cast<double>(linear.in);
  if (linear::quantizes(linear)) {
    const double groups = std::ceil(in / static_cast<double>(linear::group_columns(linear.weight)));
    return linear::growth(static_cast<double>(kActivationGroup) + groups + 2 +
                          linear::scale_roundings(linear.weight));
  }
  if (linear.setting.numerics.activation == Activation::kFp32) return linear::growth(in / 16 + 7);
  return linear::growth(std::max(in + 1, in / 16 + 7));
}

// Row n of weight times x.
Interval product(const linear::Problem& linear, const Intervals& x, const PreparedMatrix& weight, int64_t n) {
  const bool exact = linear::quantizes(linear);
  const WeightReading reading = exact ? WeightReading::kExact : linear::reading_of(linear);
  Interval sum;
  double magnitude = 0.0, operands = 0.0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double w = element(weight, reading, n, static_cast<int64_t>(i));
    sum = sum + x[i] * w;
    magnitude += x[i].magnitude() * std::abs(w);
    operands += x[i].magnitude() + std::abs(w);
  }
  return widened(sum, roundings_of(linear) * magnitude + linear::denormal_loss(linear, operands));
}

// One expert's output of one token.
Intervals apply(const Problem& problem, Part part, const Mlp& mlp, const ConstTensor<2>& x, double weight) {
  const linear::Problem into = gate_problem(problem, part), back = down_problem(problem, part);
  const DType type = activation_type(problem);
  const auto unknown = [](const Interval& a) { return !is_known(a); };
  Intervals hidden = hidden_of(products_of(into, x, mlp.gate, type), products_of(into, x, mlp.up, type),
                               {limit_of(problem, part), weight}, type);
  if (linear::quantizes(back)) quantize_row(back, hidden);
  Intervals y(static_cast<size_t>(problem.hidden), kAnything);
  if (std::any_of(hidden.begin(), hidden.end(), unknown)) return y;
  for (int64_t n = 0; n < problem.hidden; ++n)
    y[static_cast<size_t>(n)] = stored(type, product(back, hidden, mlp.down, n));
  return y;
}

// sum = fma(weight, one, sum), rounded in either of two places.
void add(Intervals& sum, double weight, const Intervals& one) {
  for (size_t i = 0; i < sum.size(); ++i) {
    const bool known = is_known(sum[i]) && is_known(one[i]) && std::isfinite(weight);
    const Interval next = known ? sum[i] + one[i] * weight : kAnything;
    sum[i] = known ? widened(next, kUnit * next.magnitude() + 0x1p-149) : kAnything;
  }
}

bool is_finite(const ConstTensor<1>& x) {
  for (int64_t i = 0; i < x.extent[0]; ++i)
    if (!std::isfinite(load(x, i))) return false;
  return true;
}

Intervals token_intervals(const Problem& problem, const Args& args, int64_t t) {
  Intervals sum(static_cast<size_t>(problem.hidden));
  if (!is_finite(args.x[t])) return Intervals(sum.size(), kAnything);
  const ConstTensor<2> x = args.x.slice(0, t, 1);
  for (int64_t j = 0; j < args.expert_ids.extent[1]; ++j) {
    const Mlp& expert = args.experts[static_cast<size_t>(args.expert_ids(t, j))];
    const double weight = args.expert_weights(t, j);
    if (problem.weight_before_down)
      add(sum, 1.0, apply(problem, Part::kRouted, expert, x, weight));
    else
      add(sum, weight, apply(problem, Part::kRouted, expert, x, 1.0));
  }
  if (args.shared != nullptr) add(sum, 1.0, apply(problem, Part::kShared, *args.shared, x, 1.0));
  for (Interval& y : sum) y = stored(activation_type(problem), y);
  return sum;
}

// How far from the reference an implementation may be. A reference outside its own interval is no reference.
double bound_of(const Interval& interval, double reference) {
  if (!is_known(interval)) return kInfinity;
  if (!interval.holds(reference)) return std::numeric_limits<double>::quiet_NaN();
  return std::max(interval.high - reference, reference - interval.low);
}

}  // namespace

std::vector<Interval> output_intervals(const Problem& problem, const Args& args) {
  Intervals all;
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    const Intervals token = token_intervals(problem, args, t);
    all.insert(all.end(), token.begin(), token.end());
  }
  return all;
}

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  const audit::OwnedTensor<2> expected(args.out.dtype, args.out.extent);
  Args reference = args;
  reference.out = expected.view();
  kReference.run(problem, reference, {});
  const std::vector<float> values = audit::values(expected.view());
  const Intervals intervals = output_intervals(problem, args);
  std::vector<float> actual = audit::values(args.out);
  std::vector<double> bounds;
  for (size_t i = 0; i < values.size(); ++i) {
    bounds.push_back(bound_of(intervals[i], values[i]));
    const bool overflows =
        !is_known(intervals[i]) && is_finite(args.x[static_cast<int64_t>(i) / problem.hidden]);
    if (overflows) actual[i] = values[i];  // not judged
  }
  audit::OpReport report;
  report.outputs.push_back({"out", audit::compare(actual, values, bounds)});
  return report;
}

}  // namespace fulgurite::experts
