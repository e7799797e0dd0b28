#include "fulgurite/ops/hyper_connection/hyper_connection_audit.h"

#include <cmath>
#include <limits>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/interval.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_audit_sinkhorn.h"
#include "fulgurite/ops/norm/norm_audit.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr double kUnit = 0x1p-24;
constexpr double kMostInRange = 0.5 * std::numeric_limits<float>::max();

// A value and how far from it either side may be.
struct Near {
  double value = 0.0;
  double error = 0.0;
};

struct Token {
  std::vector<float> flat;  // X'
  std::vector<Near> z;      // m scale + base
  bool judged = true;
};

// In fp32 are a product, 15 adds in a lane and 4 of lanes, then, after the sum of the pieces in double, one
// rounding; the reference has that one alone.
Near dot(const Args& args, const std::vector<float>& flat, int64_t n, Token& token) {
  double sum = 0.0, magnitude = 0.0;
  for (size_t i = 0; i < flat.size(); ++i) {
    const double product =
        static_cast<double>(flat[i]) * static_cast<double>(args.fn(n, static_cast<int64_t>(i)));
    sum += product;
    magnitude += std::abs(product);
  }
  token.judged &= magnitude < kMostInRange;
  return {sum, 24.0 * kUnit * magnitude + static_cast<double>(flat.size()) * 0x1p-149};
}

Token know(const Problem& problem, const Args& args, std::vector<float> flat) {
  Token token;
  token.flat = std::move(flat);
  const norm::Problem norm{problem.setting, kStreams * problem.hidden, problem.norm_eps};
  const std::vector<float> roots = norm::possible_roots(norm, token.flat);
  const double r = roots.front(),
               spread = std::abs(static_cast<double>(roots.front()) - static_cast<double>(roots.back()));
  for (int64_t n = 0; n < outputs(problem); ++n) {
    const Near d = dot(args, token.flat, n, token);
    const double scale = args.scale(n < kStreams ? 0 : n < 2 * kStreams ? 1 : 2), m = d.value * r;
    const double of_m =
        d.error * (r + spread) + std::abs(d.value) * spread + 2.0 * kUnit * std::abs(m) + 0x1p-148;
    const double z = m * scale + static_cast<double>(args.base(n));
    token.judged &=
        std::abs(m) < kMostInRange && std::abs(m * scale) < kMostInRange && std::abs(z) < kMostInRange;
    token.z.push_back(
        {z, std::abs(scale) * of_m + 2.0 * kUnit * (std::abs(m * scale) + std::abs(z)) + 0x1p-148});
  }
  return token;
}

// factor * sigmoid(z) + eps; its slope is at most 1/4.
Near gate(Near z, double factor, double eps) {
  const double value = factor / (1.0 + std::exp(-z.value)) + eps;
  return {value, factor * 0.25 * z.error + 4.0 * kUnit * value};
}

// What is compared.
struct Comparison {
  std::vector<float> actual, expected;
  std::vector<double> bound;

  void add(float is, float should_be, double error) {
    actual.push_back(is);
    expected.push_back(should_be);
    bound.push_back(error);
  }
  audit::Difference difference() const { return audit::compare(actual, expected, bound); }
};

struct Comparisons {
  Comparison post, mix, collapsed;
};

void compare_coefficients(const Problem& problem, const Args& args, const Args& reference, const Token& token,
                          int64_t t, Comparisons& out) {
  Square logits, difference;
  for (size_t j = 0; j < 4; ++j) {
    for (size_t k = 0; k < 4; ++k) {
      logits[j][k] = token.z[8 + 4 * j + k].value;
      difference[j][k] = token.z[8 + 4 * j + k].error;
    }
  }
  const Square bound = sinkhorn_bound(logits, difference, problem.sinkhorn_iterations, problem.eps);
  for (size_t j = 0; j < 4; ++j) {
    out.post.add(args.post_out(t, j), reference.post_out(t, j), gate(token.z[4 + j], 2.0, 0.0).error);
    for (size_t k = 0; k < 4; ++k)
      out.mix.add(args.mix_out(t, j, k), reference.mix_out(t, j, k), bound[j][k]);
  }
}

void compare_collapsed(const Problem& problem, const Args& args, const Args& reference, const Token& token,
                       int64_t t, Comparisons& out) {
  for (int64_t i = 0; i < problem.hidden; ++i) {
    Near sum;
    for (int64_t j = 0; j < kStreams; ++j) {
      const Near pre = gate(token.z[static_cast<size_t>(j)], 1.0, problem.eps);
      const double x = token.flat[static_cast<size_t>(j * problem.hidden + i)];
      sum.value += pre.value * x;
      sum.error += pre.error * std::abs(x) + 5.0 * kUnit * std::abs(pre.value * x) + 0x1p-148;
    }
    const Interval possible = rounded(args.collapsed.dtype, Interval::around(sum.value, sum.error));
    const float expected = load(reference.collapsed, t, i);
    out.collapsed.add(load(args.collapsed, t, i), expected,
                      std::fmax(possible.high - static_cast<double>(expected),
                                static_cast<double>(expected) - possible.low));
  }
}

// X' of token t, as the reference's streams say.
std::vector<float> flat_of(const Problem& problem, const Args& args, const ConstTensor<3>& streams,
                           int64_t t) {
  std::vector<float> flat;
  for (int64_t k = 0; k < kStreams; ++k)
    for (int64_t i = 0; i < problem.hidden; ++i)
      flat.push_back(args.replaced ? args.replaced(t, k * problem.hidden + i) : load(streams, t, k, i));
  return flat;
}

bool all_finite(const std::vector<float>& values) {
  for (const float value : values)
    if (!std::isfinite(value)) return false;
  return true;
}

// NaN or infinity in the streams: there is nothing but NaN.
void compare_masks(const Problem& problem, const Args& args, const Args& reference, int64_t t,
                   Comparisons& out) {
  for (int64_t i = 0; i < problem.hidden; ++i)
    out.collapsed.add(load(args.collapsed, t, i), load(reference.collapsed, t, i), 0.0);
  if (problem.kind == Kind::kHead) return;
  for (int64_t j = 0; j < kStreams; ++j) {
    out.post.add(args.post_out(t, j), reference.post_out(t, j), 0.0);
    for (int64_t k = 0; k < kStreams; ++k)
      out.mix.add(args.mix_out(t, j, k), reference.mix_out(t, j, k), 0.0);
  }
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  const int64_t tokens = args.streams.extent[0];
  const audit::OwnedTensor<3> streams(args.streams.dtype, args.streams.extent);
  const audit::OwnedTensor<2> collapsed(args.collapsed.dtype, args.collapsed.extent);
  const audit::OwnedTensor<2> post(DType::kF32, {tokens, kStreams});
  const audit::OwnedTensor<3> mix(DType::kF32, {tokens, kStreams, kStreams});
  Args reference = args;
  reference.streams_out = streams.view();
  reference.collapsed = collapsed.view();
  reference.post_out = post.view().as<float>();
  reference.mix_out = mix.view().as<float>();
  kReference.run(problem, reference, {});
  std::vector<Token> known;  // before `row` writes over its inputs
  for (int64_t t = 0; t < tokens; ++t)
    known.push_back(
        know(problem, args,
             flat_of(problem, args, updates(args) ? ConstTensor<3>(streams.view()) : args.streams, t)));
  row.run(problem, args, lane);

  Comparisons out;
  for (int64_t t = 0; t < tokens; ++t) {
    const Token& token = known[static_cast<size_t>(t)];
    if (!all_finite(token.flat)) {
      compare_masks(problem, args, reference, t, out);
    } else if (token.judged) {
      if (problem.kind == Kind::kLayer) compare_coefficients(problem, args, reference, token, t, out);
      compare_collapsed(problem, args, reference, token, t, out);
    }
  }
  audit::OpReport report{{{"post", out.post.difference()},
                          {"mix", out.mix.difference()},
                          {"collapsed", out.collapsed.difference()}}};
  if (updates(args))
    report.outputs.push_back(
        {"streams",
         audit::compare(audit::values(args.streams_out), audit::values(streams.view()),
                        std::vector<double>(static_cast<size_t>(tokens * kStreams * problem.hidden)))});
  return report;
}

}  // namespace fulgurite::hyper_connection
