#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr double kUnit = 0x1p-24;  // of a rounding to fp32
constexpr double kExponential =
    4.0;  // units: a kernel's exp is within 1.5 ulp, and the product with it is rounded
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double finite_or_unbounded(double bound) { return std::isfinite(bound) ? bound : kInfinity; }

// An interval for exp(argument), argument <= 0, where the argument may be off by `error` and the result by
// `units` roundings. A computed one does not exceed 1.
Interval exponential(double argument, double error, double units) {
  if (argument == -kInfinity) return {0.0, 0.0};
  const double value = std::exp(argument), rounding = units * kUnit;
  return {std::max(0.0, value * std::exp(-error) * (1.0 - rounding) - 0x1p-149),
          std::min(1.0, value * std::exp(error) * (1.0 + rounding) + 0x1p-149)};
}

// Rounded to bf16, where what is denormal may be taken as zero.
Interval rounded_weight(Isa isa, Interval weight) {
  const Interval narrow = rounded(DType::kBF16, weight);
  return {flushes_denormals(isa) && narrow.low < 0x1p-126 ? 0.0 : narrow.low, narrow.high};
}

// The weights of a head's entries relative to its largest score, as either side has them: p as it meets the
// values, e as it enters the denominator.
struct Weights {
  std::vector<Interval> p;
  Interval denominator;  // of sums without roundings
  int64_t tiles = 0;
};

// What a sink adds to the denominator; it may be far above every score.
Interval sink_weight(double above, double error) {
  if (above == -kInfinity) return {0.0, 0.0};
  const double value = std::exp(above), off = std::exp(error + kUnit * std::abs(above));
  return {value / off * (1.0 - kExponential * kUnit), value * off * (1.0 + kExponential * kUnit) + 0x1p-149};
}

double largest_of(std::span<const Score> scores) {
  double largest = -kInfinity;
  for (const Score& score : scores) largest = std::max(largest, score.value);
  return largest;
}

// An entry's weight is exp(s - m) of its tile, rounded, times exp(m - the last m), which is made in steps,
// one a tile, whose arguments add up. A largest score is off by no more than the scores.
Weights weights_of(const Setting& setting, std::span<const Score> scores, float sink) {
  const Numerics& numerics = setting.numerics;
  const auto count = static_cast<int64_t>(scores.size());
  const int64_t keys = numerics.softmax_tile == SoftmaxTile::kNone ? count
                       : numerics.softmax_tile == SoftmaxTile::k64 ? 64
                                                                   : 128;
  const double last = largest_of(scores);
  double error = 0.0, running = -kInfinity;
  for (const Score& score : scores) error = std::max(error, score.error);
  Weights weights;
  weights.tiles = (count + keys - 1) / keys;
  for (int64_t first = 0; first < count; first += keys) {
    const auto tile =
        scores.subspan(static_cast<size_t>(first), static_cast<size_t>(std::min(keys, count - first)));
    running = std::max(running, largest_of(tile));
    const double m = numerics.softmax_merge == SoftmaxMerge::kRunning ? running : largest_of(tile);
    const bool final_tile = numerics.softmax_merge == SoftmaxMerge::kRunning && first + keys >= count;
    const Interval rescale =
        final_tile ? Interval{1.0, 1.0}
                   : exponential(m - last, 2.0 * error + kUnit * (last - m),
                                 (kExponential + 1.0) * static_cast<double>(weights.tiles - first / keys));
    for (const Score& score : tile) {
      const double argument = score.value == -kInfinity ? -kInfinity : score.value - m;
      const Interval e =
          exponential(argument, score.error + error + kUnit * std::abs(argument), kExponential);
      const Interval p = numerics.softmax_p == SoftmaxP::kBf16 ? rounded_weight(setting.target.isa, e) : e;
      weights.p.push_back(p * rescale);
      const bool rounds = numerics.softmax_denominator == SoftmaxDenominator::kRounded;
      weights.denominator = weights.denominator + (rounds ? p : e) * rescale;
    }
  }
  weights.denominator = weights.denominator + sink_weight(sink - last, error);
  return weights;
}

}  // namespace

bool sums_pairs(const Numerics& numerics) {
  return numerics.activation != Activation::kFp32 || numerics.qk_operands == QkOperands::kBf16;
}

double sum_roundings(const Numerics& numerics, int64_t terms) {
  const auto n = static_cast<double>(terms);
  return sums_pairs(numerics) ? n + 3.0 : n / 16.0 + 8.0;
}

double denormal_loss(const Setting& setting, int64_t terms, double operands) {
  return sums_pairs(setting.numerics) ? linear::denormal_loss(setting.target.isa, terms, operands)
                                      : 0x1p-149 * static_cast<double>(terms);
}

Score score_of(const Setting& setting, std::span<const float> query, std::span<const float> row,
               float scale) {
  const bool narrow = setting.numerics.qk_operands == QkOperands::kBf16;
  const auto operand = [&](float x) { return static_cast<double>(narrow ? round_to_bf16(x) : x); };
  const auto width = static_cast<int64_t>(query.size());
  double sum = 0.0, magnitude = 0.0, operands = 0.0;
  for (size_t c = 0; c < query.size(); ++c) {
    const double q = operand(query[c]), k = operand(row[c]);
    sum += q * k;
    magnitude += std::abs(q * k);
    operands += std::abs(q) + std::abs(k);
  }
  const double roundings = (sum_roundings(setting.numerics, width) + 2.0) * kUnit;  // and scale's product
  const double error = roundings * magnitude + denormal_loss(setting, width, operands);
  return {sum * scale, std::abs(static_cast<double>(scale)) * error + 0x1p-149};
}

std::vector<double> attend_bound(const Setting& setting, std::span<const Score> scores,
                                 const std::function<Interval(int64_t j, int64_t c)>& value,
                                 std::span<const float> out, float sink) {
  const Weights weights = weights_of(setting, scores, sink);
  const auto count = static_cast<int64_t>(scores.size());
  // Of numerator and denominator: a rounding an entry, and a few a tile and at the end, on either side.
  const double share = kUnit * static_cast<double>(2 * count + 8 * weights.tiles + 16);
  const double apart = weights.denominator.high - weights.denominator.low;
  const double least = std::max(0.999, weights.denominator.low);  // the largest score has weight 1
  std::vector<double> bounds;
  for (int64_t c = 0; c < static_cast<int64_t>(out.size()); ++c) {
    double difference = 0.0, magnitude = 0.0, values = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      const Interval p = weights.p[static_cast<size_t>(j)], v = value(j, c);
      difference += (p.high - p.low) * v.magnitude() + p.high * (v.high - v.low);
      magnitude += p.high * v.magnitude();
      values += v.magnitude();
    }
    const double lost = denormal_loss(setting, count + weights.tiles, values + static_cast<double>(count));
    const double result = std::abs(static_cast<double>(out[static_cast<size_t>(c)]));
    const double bound = (difference + 2.0 * share * magnitude + lost + result * apart) / least;
    // Where a sink takes the denominator out of fp32's range, neither side is further from 0 than this.
    const double most = 2.0 * magnitude / least;
    bounds.push_back(finite_or_unbounded(weights.denominator.high < 0x1p127 ? bound : most) + 0x1p-148);
  }
  return bounds;
}

std::vector<double> bound_of_runs(int64_t runs, std::span<const Score> scores,
                                  const std::function<double(int64_t j, int64_t c)>& value,
                                  std::span<const float> out) {
  const double largest = largest_of(scores), n = static_cast<double>(scores.size());
  const double steps = std::ceil(n / 64.0) + static_cast<double>(runs);
  std::vector<double> weights;
  double sum = 0.0;
  for (const Score& score : scores) sum += weights.emplace_back(std::exp(score.value - largest));
  std::vector<double> bounds;
  for (int64_t c = 0; c < static_cast<int64_t>(out.size()); ++c) {
    const double result = std::abs(static_cast<double>(out[static_cast<size_t>(c)]));
    double bound = 0.0, magnitude = 0.0;
    for (size_t j = 0; j < weights.size(); ++j) {
      const double p = weights[j] / sum, v = std::abs(value(static_cast<int64_t>(j), c));
      if (p == 0.0) continue;
      const double exponentials = 0x1p-21 * (steps + 2.0 + largest - scores[j].value);
      bound += p * (v * 0x1p-7 + (v + result) * exponentials);
      magnitude += p * v;
    }
    bounds.push_back(
        finite_or_unbounded(bound + (magnitude + result) * (19.0 * n / 16.0 + 8.0 * steps + 32.0) * kUnit));
  }
  return bounds;
}

void round_expected(DType dtype, std::span<float> expected, std::span<double> bounds) {
  if (dtype == DType::kF32) return;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double exact = expected[i];
    expected[i] = round_to(dtype, expected[i]);
    const Interval reach = rounded(dtype, Interval::around(exact, bounds[i]));
    bounds[i] = finite_or_unbounded(std::max(reach.high - expected[i], expected[i] - reach.low));
  }
}

namespace {

// The selected rows of a token as attention reads them, [count][latent + rope].
std::vector<float> selected_values(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> values;
  for (int64_t j = 0; j < selected_rows(args.selected[t]); ++j) {
    const std::byte* const row = args.cache.at(args.places(t).sequence, args.selected(t, j));
    for (int64_t c = 0; c < problem.latent; ++c) values.push_back(args.cache.row.latent_value(row, c));
    for (int64_t r = 0; r < problem.rope; ++r) values.push_back(args.cache.row.rope_value(row, r));
  }
  return values;
}

std::vector<Score> scores_of(const Problem& problem, std::span<const float> query,
                             std::span<const float> values) {
  std::vector<Score> scores;
  for (size_t row = 0; row < values.size(); row += query.size())
    scores.push_back(score_of(problem.setting, query, values.subspan(row, query.size()), problem.scale));
  return scores;
}

std::vector<float> query_of(const Problem& problem, const Args& args, int64_t t, int64_t h) {
  std::vector<float> query;
  for (int64_t c = 0; c < problem.latent; ++c) query.push_back(load(args.q, t, h, c));
  for (int64_t r = 0; r < problem.rope; ++r) query.push_back(load(args.q_rope, t, h, r));
  return query;
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  const int64_t tokens = args.q.extent[0], width = problem.latent + problem.rope;
  const auto latent = static_cast<size_t>(problem.latent);
  std::vector<float> expected(static_cast<size_t>(tokens * problem.heads) * latent), actual;
  Args unrounded = args;  // the reference before its last rounding: it stores what the tensor's type holds
  unrounded.out = View<float, 3>(expected.data(), {tokens, problem.heads, problem.latent});
  kReference.run(problem, unrounded, {});
  std::vector<double> bounds;
  for (int64_t t = 0; t < tokens; ++t) {
    const std::vector<float> values = selected_values(problem, args, t);
    const auto value = [&](int64_t j, int64_t c) {
      const double v = values[static_cast<size_t>(j * width + c)];
      return Interval{v, v};
    };
    for (int64_t h = 0; h < problem.heads; ++h) {
      const std::vector<Score> scores = scores_of(problem, query_of(problem, args, t, h), values);
      const auto out = std::span<const float>(expected).subspan(bounds.size(), latent);
      const size_t first = bounds.size();
      for (const double bound : attend_bound(problem.setting, scores, value, out)) bounds.push_back(bound);
      if (problem.runs > 0) {
        const auto of_value = [&](int64_t j, int64_t c) {
          return static_cast<double>(values[static_cast<size_t>(j * width + c)]);
        };
        const std::vector<double> more = bound_of_runs(problem.runs, scores, of_value, out);
        for (size_t c = 0; c < latent; ++c) bounds[first + c] += more[c];
      }
      for (int64_t c = 0; c < problem.latent; ++c) actual.push_back(load(ConstTensor<3>(args.out), t, h, c));
    }
  }
  round_expected(args.out.dtype, expected, bounds);
  return {{{"out", audit::compare(actual, expected, bounds)}}};
}

}  // namespace fulgurite::sparse_attention
