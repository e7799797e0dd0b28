#include "fulgurite/ops/norm/norm_audit.h"

#include <cmath>
#include <limits>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/rounding.h"

namespace fulgurite::norm {
namespace {

float residual(const Args& args, int64_t t, int64_t i) {
  if (args.replaced) return args.replaced(t, i);
  return args.added ? load(args.x, t, i) + load(args.added, t, i) : load(args.x, t, i);
}

// What the norm reads of a row.
std::vector<float> read_row(const Problem& problem, const Args& args, int64_t t) {
  const bool rounds = problem.setting.numerics.norm_input == NormInput::kRounded;
  std::vector<float> s;
  for (int64_t i = 0; i < problem.width; ++i) {
    const float value = residual(args, t, i);
    s.push_back(rounds ? round_to(args.out.dtype, value) : value);
  }
  return s;
}

// The farthest that a possible r takes each element from the reference's.
std::vector<double> bound(const Problem& problem, const Args& args, const std::vector<float>& expected) {
  std::vector<double> bounds(expected.size(), 0.0);
  for (int64_t t = 0; t < args.out.extent[0]; ++t) {
    const std::vector<float> s = read_row(problem, args, t);
    for (const float r : possible_roots(problem, s)) {
      for (int64_t i = 0; i < problem.width; ++i) {
        const auto at = static_cast<size_t>(t * problem.width + i);
        const double out = round_to(args.out.dtype, args.weight(i) * (s[static_cast<size_t>(i)] * r));
        bounds[at] = std::fmax(bounds[at], std::abs(out - static_cast<double>(expected[at])));
      }
    }
  }
  return bounds;
}

}  // namespace

std::vector<float> possible_roots(const Problem& problem, std::span<const float> s) {
  double squares = 0.0;
  for (const float value : s) squares += static_cast<double>(value) * static_cast<double>(value);
  const auto n = static_cast<double>(s.size());
  const double error = (2.0 * n + 4.0) * 0x1p-53;
  const auto highest = static_cast<float>(squares * (1.0 + error) / n);
  std::vector<float> roots;
  for (auto mean = static_cast<float>(squares * (1.0 - error) / n);;
       mean = std::nextafter(mean, std::numeric_limits<float>::infinity())) {
    roots.push_back(reciprocal_sqrt(mean + problem.eps, problem.setting.numerics));
    if (!(mean < highest)) return roots;
  }
}

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> sum(args.out.dtype, args.out.extent), out(args.out.dtype, args.out.extent);
  Args reference = args;
  if (args.sum) reference.sum = sum.view();
  reference.out = out.view();
  kReference.run(problem, reference, {});
  const std::vector<float> expected = audit::values(out.view());
  const std::vector<double> bounds = bound(problem, args, expected);  // before `row` writes over its inputs
  row.run(problem, args, lane);

  audit::OpReport report;
  if (args.sum)
    report.outputs.push_back({"sum", audit::compare(audit::values(args.sum), audit::values(sum.view()),
                                                    std::vector<double>(expected.size(), 0.0))});
  report.outputs.push_back({"out", audit::compare(audit::values(args.out), expected, bounds)});
  return report;
}

}  // namespace fulgurite::norm
