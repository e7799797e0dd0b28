#include "fulgurite/ops/router/router_audit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/interval.h"
#include "fulgurite/ops/linear/linear_audit.h"

namespace fulgurite::router {
namespace {

constexpr double kUnit = 0x1p-24;
using Intervals = std::vector<Interval>;

// A sum of products, and what an implementation's error is made of.
struct Logit {
  double sum = 0.0;
  double magnitude = 0.0;  // sum |x||W|
  double operands = 0.0;   // sum |x| + |W|
};

Logit logit(const Args& args, int64_t t, int64_t expert) {
  Logit l;
  for (int64_t i = 0; i < args.x.extent[1]; ++i) {
    const double x = load(args.x, t, i), w = exact_element(*args.weight, expert, i);
    l.sum += x * w;
    l.magnitude += std::abs(x * w);
    l.operands += std::abs(x) + std::abs(w);
  }
  return l;
}

Interval interval_of(const Problem& problem, const Logit& l) {
  const auto hidden = static_cast<double>(problem.hidden);
  const bool bf16_operands =
      problem.setting.numerics.activation == Activation::kBf16 && problem.weight.form == MatrixForm::kBF16;
  const double lost = linear::denormal_loss(problem.setting.target.isa, problem.hidden, l.operands);
  const double error = bf16_operands ? (hidden + 2) * kUnit * l.magnitude + lost
                                     : (hidden / 16 + 8) * kUnit * l.magnitude + hidden * 0x1p-149;
  return rounded(DType::kF32, Interval::around(l.sum, error));
}

double sigmoid(double l) { return 1.0 / (1.0 + std::exp(-l)); }

// What the sigmoid of an implementation may be: the contract's 6 u and 2^-126.
Interval sigmoid(const Interval& l) {
  const Interval s{sigmoid(l.low) * (1.0 - 6 * kUnit) - 0x1p-126, sigmoid(l.high) * (1.0 + 6 * kUnit)};
  return rounded(DType::kF32, {std::max(0.0, s.low), std::min(1.0, s.high)});
}

double softplus(double l) { return l > 20.0 ? l : std::log1p(std::exp(l)); }

// Of sqrt(softplus): exp and log1p of 2 ulp each, which are 8 u of softplus or less, since its logarithm rises
// no faster than exp's; below 2^-126 it may be 0. The root halves an error and adds a rounding.
Interval sqrt_softplus(const Interval& l) {
  const double low = std::max(0.0, softplus(l.low) * (1.0 - 8 * kUnit) - 0x1p-126);
  const double high = softplus(l.high) * (1.0 + 8 * kUnit) + 0x1p-149;
  return rounded(DType::kF32, {std::sqrt(low) * (1.0 - kUnit), std::sqrt(high) * (1.0 + kUnit)});
}

Interval score(Scoring scoring, const Interval& l) {
  return scoring == Scoring::kSigmoid ? sigmoid(l) : sqrt_softplus(l);
}

// What is known of one token.
struct Token {
  Intervals s, z;
  std::vector<bool> possible, sure;  // to be chosen
  bool in_range = true;              // no partial sum of fp32 can overflow
};

// Does a, wherever it lies, rank above b? Ties go to the lower index.
bool surely_above(const Intervals& values, int64_t a, int64_t b) {
  const double low = values[static_cast<size_t>(a)].low, high = values[static_cast<size_t>(b)].high;
  return low > high || (low == high && a < b);
}

// Which of `candidates` can be, and which must be, among the `wanted` best. `certain` candidates compete
// surely.
void mark(const Intervals& values, const std::vector<bool>& candidates, const std::vector<bool>& certain,
          int64_t wanted, std::vector<bool>& possible, std::vector<bool>& sure) {
  const auto count = static_cast<int64_t>(values.size());
  possible.assign(values.size(), false);
  sure.assign(values.size(), false);
  for (int64_t a = 0; a < count; ++a) {
    const auto at = static_cast<size_t>(a);
    if (!candidates[at]) continue;
    int64_t surely = 0, possibly = 0;  // above a
    for (int64_t b = 0; b < count; ++b) {
      const auto other = static_cast<size_t>(b);
      surely += b != a && certain[other] && surely_above(values, b, a);
      possibly += b != a && candidates[other] && !surely_above(values, a, b);
    }
    possible[at] = surely < wanted;
    sure[at] = certain[at] && possibly < wanted;
  }
}

double sum_of_two_largest(std::vector<double> values) {
  std::sort(values.begin(), values.end(), std::greater<>());
  return values.size() == 1 ? values[0] : round_once(DType::kF32, values[0] + values[1]);
}

Interval group_score(const Intervals& z, int64_t first, int64_t size) {
  std::vector<double> low, high;
  for (int64_t e = first; e < first + size; ++e) {
    low.push_back(z[static_cast<size_t>(e)].low);
    high.push_back(z[static_cast<size_t>(e)].high);
  }
  return {sum_of_two_largest(low), sum_of_two_largest(high)};
}

void mark_experts(const Problem& problem, Token& token) {
  const int64_t size = problem.experts / problem.groups;
  Intervals scores;
  for (int64_t g = 0; g < problem.groups; ++g) scores.push_back(group_score(token.z, g * size, size));
  const std::vector<bool> all(scores.size(), true);
  std::vector<bool> possible, sure, candidates, certain;
  mark(scores, all, all, problem.groups_kept, possible, sure);
  for (int64_t e = 0; e < problem.experts; ++e) {
    candidates.push_back(possible[static_cast<size_t>(e / size)]);
    certain.push_back(sure[static_cast<size_t>(e / size)]);
  }
  mark(token.z, candidates, certain, problem.experts_per_token, token.possible, token.sure);
}

void mark_experts_of_table(const Problem& problem, const Args& args, int64_t t, Token& token) {
  token.possible.assign(token.s.size(), false);
  for (int64_t j = 0; j < problem.experts_per_token; ++j)
    token.possible[static_cast<size_t>(args.hash_table(args.ids(t), j))] = true;
  token.sure = token.possible;
}

Token know(const Problem& problem, const Args& args, int64_t t) {
  Token token;
  for (int64_t e = 0; e < problem.experts; ++e) {
    const Logit exact = logit(args, t, e);
    const Interval l = interval_of(problem, exact);
    token.in_range &= exact.magnitude <= 0.5 * std::numeric_limits<float>::max();
    token.s.push_back(score(problem.scoring, l));
    if (problem.hashed) continue;
    const double bias = args.bias(e);
    token.z.push_back(rounded(DType::kF32, token.s.back() + Interval{bias, bias}));
  }
  if (problem.hashed)
    mark_experts_of_table(problem, args, t, token);
  else
    mark_experts(problem, token);
  return token;
}

// A legal choice: ascending, every expert that must be chosen, none that cannot be.
bool is_legal(const Token& token, std::span<const int32_t> ids) {
  std::vector<bool> chosen(token.s.size(), false);
  int64_t previous = -1;
  for (const int32_t id : ids) {
    if (id <= previous || id >= static_cast<int64_t>(chosen.size())) return false;
    if (!token.possible[static_cast<size_t>(id)]) return false;
    chosen[static_cast<size_t>(id)] = true;
    previous = id;
  }
  for (size_t e = 0; e < chosen.size(); ++e)
    if (token.sure[e] && !chosen[e]) return false;
  return true;
}

// The weight of ids[j], each s being anywhere in its interval.
Interval weight_of(const Problem& problem, const Token& token, std::span<const int32_t> ids, size_t j) {
  double low = 0.0, high = 0.0;  // of the others
  for (size_t i = 0; i < ids.size(); ++i) {
    if (i == j) continue;
    low += token.s[static_cast<size_t>(ids[i])].low;
    high += token.s[static_cast<size_t>(ids[i])].high;
  }
  const Interval s = token.s[static_cast<size_t>(ids[j])];
  const auto share = [](double own, double others) { return own == 0.0 ? 0.0 : own / (own + others); };
  const double roundings = (static_cast<double>(ids.size()) + 4) * kUnit;
  const auto factor = static_cast<double>(problem.factor);
  const double least = share(s.low, high) * factor, most = share(s.high, low) * factor;
  return {least * (1.0 - roundings) - 0x1p-148, most * (1.0 + roundings) + 0x1p-148};
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

struct Outputs {
  Comparison ids, weights;
};

bool is_finite(const Args& args, int64_t t) {
  for (int64_t i = 0; i < args.x.extent[1]; ++i)
    if (!std::isfinite(load(args.x, t, i))) return false;
  return true;
}

// Nothing is in doubt: a NaN or infinity in x makes the same logits in any order.
void compare_exactly(const Args& actual, const Args& reference, int64_t t, Outputs& out) {
  const int64_t chosen = actual.expert_ids.extent[1];
  const double roundings = (static_cast<double>(chosen) + 4) * kUnit;
  for (int64_t j = 0; j < chosen; ++j) {
    const float weight = reference.expert_weights(t, j);
    out.ids.add(static_cast<float>(actual.expert_ids(t, j)), static_cast<float>(reference.expert_ids(t, j)),
                0.0);
    out.weights.add(actual.expert_weights(t, j), weight, roundings * std::abs(weight));
  }
}

void compare_token(const Problem& problem, const Args& actual, const Args& reference, int64_t t,
                   Outputs& out) {
  const Token token = know(problem, actual, t);
  if (!token.in_range) return;  // not judged
  const auto chosen = static_cast<size_t>(problem.experts_per_token);
  const std::span<const int32_t> ids{actual.expert_ids[t].data, chosen};
  const bool same = std::equal(ids.begin(), ids.end(), reference.expert_ids[t].data);
  const bool legal = same || is_legal(token, ids);
  for (size_t j = 0; j < chosen; ++j) {
    const auto at = static_cast<int64_t>(j);
    out.ids.add(static_cast<float>(ids[j]), static_cast<float>(reference.expert_ids(t, at)),
                legal ? static_cast<double>(problem.experts) : 0.0);
    if (!legal) continue;
    const Interval span = weight_of(problem, token, ids, j);
    const float expected =
        same ? reference.expert_weights(t, at) : static_cast<float>(0.5 * (span.low + span.high));
    out.weights.add(actual.expert_weights(t, at), expected,
                    std::max(span.high - expected, expected - span.low));
  }
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  const int64_t tokens = args.x.extent[0], chosen = problem.experts_per_token;
  std::vector<int32_t> ids(static_cast<size_t>(tokens * chosen));
  std::vector<float> weights(ids.size());
  Args reference = args;
  reference.expert_ids = {ids.data(), {tokens, chosen}};
  reference.expert_weights = {weights.data(), {tokens, chosen}};
  kReference.run(problem, reference, {});
  Outputs out;
  for (int64_t t = 0; t < tokens; ++t) {
    if (is_finite(args, t))
      compare_token(problem, args, reference, t, out);
    else
      compare_exactly(args, reference, t, out);
  }
  return {{{"expert_ids", out.ids.difference()}, {"expert_weights", out.weights.difference()}}};
}

}  // namespace fulgurite::router
