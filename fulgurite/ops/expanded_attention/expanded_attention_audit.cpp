#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"

#include <cmath>
#include <vector>

#include "fulgurite/core/interval.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

namespace fulgurite::expanded_attention {
namespace {

using sparse_attention::Score;

constexpr double kUnit = 0x1p-24;

// One head of one token; its rows of kv_b, [nope + value][latent], and the latents of the token's rows,
// [count][.].
struct Head {
  const Problem& problem;
  const Args& args;
  int64_t t, h;
  std::vector<double> weights, latents;

  Head(const Problem& p, const Args& a, int64_t token, int64_t head)
      : problem(p), args(a), t(token), h(head) {
    const int64_t rows = problem.nope + problem.value;
    for (int64_t r = h * rows; r < (h + 1) * rows; ++r)
      for (int64_t c = 0; c < problem.latent; ++c)
        weights.push_back(element(*args.weight, reading_of(numerics()), r, c));
    for (int64_t j = 0; j < sparse_attention::selected_rows(args.selected[t]); ++j)
      for (int64_t c = 0; c < problem.latent; ++c) latents.push_back(args.cache.row.latent_value(row(j), c));
  }

  const Numerics& numerics() const { return problem.setting.numerics; }
  const std::byte* row(int64_t j) const {
    return args.cache.at(args.places(t).sequence, args.selected(t, j));
  }

  // What an element of k or v may be on either side: a sum of either order, rounded to the activation's type.
  Interval expand(int64_t weight_row, int64_t j) const {
    double sum = 0.0, magnitude = 0.0, operands = 0.0;
    for (int64_t c = 0; c < problem.latent; ++c) {
      const double w = weights[static_cast<size_t>(weight_row * problem.latent + c)];
      const double x = latents[static_cast<size_t>(j * problem.latent + c)];
      sum += x * w;
      magnitude += std::abs(x * w);
      operands += std::abs(x) + std::abs(w);
    }
    const double error = sparse_attention::sum_roundings(numerics(), problem.latent) * kUnit * magnitude +
                         sparse_attention::denormal_loss(problem.setting, problem.latent, operands) +
                         0x1p-149;
    return rounded(args.q.dtype, Interval::around(sum, error));
  }

  Score score(int64_t j) const {
    const bool narrow = numerics().qk_operands == QkOperands::kBf16;
    const auto operand = [&](Interval x) { return narrow ? rounded(DType::kBF16, x) : x; };
    const int64_t width = problem.nope + problem.rope;
    Interval sum;
    double magnitude = 0.0, operands = 0.0;
    for (int64_t d = 0; d < width; ++d) {
      const double x = load(args.q, t, h, d);
      const double rotated = d < problem.nope ? 0.0 : args.cache.row.rope_value(row(j), d - problem.nope);
      const Interval q = operand({x, x}),
                     k = operand(d < problem.nope ? expand(d, j) : Interval{rotated, rotated});
      sum = sum + q * k;
      magnitude += q.magnitude() * k.magnitude();
      operands += q.magnitude() + k.magnitude();
    }
    const double roundings = (sparse_attention::sum_roundings(numerics(), width) + 2.0) * kUnit;
    const double error = (sum.high - sum.low) / 2 + roundings * magnitude +
                         sparse_attention::denormal_loss(problem.setting, width, operands);
    return {(sum.low + sum.high) / 2 * problem.scale, std::abs(problem.scale) * error + 0x1p-149};
  }

  std::vector<double> bound(std::span<const float> out) const {
    std::vector<Score> scores;
    std::vector<Interval> values;
    for (int64_t j = 0; j < sparse_attention::selected_rows(args.selected[t]); ++j) {
      scores.push_back(score(j));
      for (int64_t d = 0; d < problem.value; ++d) values.push_back(expand(problem.nope + d, j));
    }
    const auto value = [&](int64_t j, int64_t d) {
      return values[static_cast<size_t>(j * problem.value + d)];
    };
    return sparse_attention::attend_bound(problem.setting, scores, value, out);
  }
};

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  const int64_t tokens = args.q.extent[0];
  const auto width = static_cast<size_t>(problem.value);
  std::vector<float> expected(static_cast<size_t>(tokens * problem.heads) * width), actual;
  Args unrounded = args;  // the reference before its last rounding: it stores what the tensor's type holds
  unrounded.out = View<float, 3>(expected.data(), {tokens, problem.heads, problem.value});
  kReference.run(problem, unrounded, {});
  std::vector<double> bounds;
  for (int64_t t = 0; t < tokens; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const auto out = std::span<const float>(expected).subspan(bounds.size(), width);
      for (const double bound : Head(problem, args, t, h).bound(out)) bounds.push_back(bound);
      for (int64_t d = 0; d < problem.value; ++d) actual.push_back(load(ConstTensor<3>(args.out), t, h, d));
    }
  }
  sparse_attention::round_expected(args.out.dtype, expected, bounds);
  return {{{"out", audit::compare(actual, expected, bounds)}}};
}

}  // namespace fulgurite::expanded_attention
