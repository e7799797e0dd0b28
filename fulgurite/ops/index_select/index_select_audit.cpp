#include "fulgurite/ops/index_select/index_select_audit.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <iterator>
#include <limits>
#include <span>
#include <vector>

#include "fulgurite/audit/tensors.h"
#include "fulgurite/core/element.h"

namespace fulgurite::index_select {
namespace {

constexpr double kUnit = 0x1p-24;       // of an fp32 rounding
constexpr double kSmallest = 0x1p-149;  // step of fp32's denormals
constexpr double kFlushed = 0x1p-126;   // what may count as zero, at most
constexpr double kAnything = std::numeric_limits<double>::infinity();
constexpr double kOverflow = 0x1.fffp+126;  // a sum of larger magnitude may overflow on its way

// The outputs of one run.
struct Outputs {
  std::vector<int32_t> selected;
  std::vector<float> scores;
};

Args redirected(const Problem& problem, const Args& args, Outputs& out) {
  const int64_t tokens = args.q.extent[0];
  out.selected.resize(static_cast<size_t>(tokens * problem.topk));
  out.scores.resize(static_cast<size_t>(tokens * problem.context));
  Args other = args;
  other.selected = {out.selected.data(), {tokens, problem.topk}};
  other.scores = {out.scores.data(), {tokens, problem.context}};
  other.slots = {};  // the row's own are judged
  return other;
}

std::vector<double> values_of(const ConstTensor<1>& row) {
  std::vector<double> x;
  for (int64_t i = 0; i < row.extent[0]; ++i)
    x.push_back(row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i));
  return x;
}

// What the error of a score is made of. Infinities and NaN count nothing: they are what they are in any
// order.
struct Magnitude {
  double products = 0.0;  // sum |w| sum |q||k|
  double lost = 0.0;      // to denormals, below every rounding's relative error
  double largest = 0.0;   // of any sum on the way
};

double finite(double x) { return std::isfinite(x) ? std::abs(x) : 0.0; }

// Operands, sums and products below 2^-126 may be taken as zeros.
bool flushes(const Problem& problem) {
  return index_operand(problem.setting.numerics) == DType::kBF16 &&
         flushes_denormals(problem.setting.target.isa);
}

Magnitude magnitude(const std::vector<std::vector<double>>& heads, View<const float, 1> weights,
                    const std::vector<double>& key, bool flushes) {
  Magnitude m;
  for (size_t h = 0; h < heads.size(); ++h) {
    double dot = 0.0, lost = 0.0;
    for (size_t d = 0; d < key.size(); ++d) {
      const double q = finite(heads[h][d]), k = finite(key[d]);
      dot += q * k;
      lost += kSmallest;
      if (!flushes) continue;
      const bool zeroed = std::abs(heads[h][d]) < kFlushed || std::abs(key[d]) < kFlushed;
      lost += kFlushed + (zeroed ? q * k : 0.0);
      if (zeroed && !std::isfinite(heads[h][d] * key[d]))
        m.largest = kAnything;  // infinity times zero is NaN
    }
    const double weight = finite(weights(h));
    m.products += weight * dot;
    m.lost += weight * lost + kSmallest;
    m.largest = std::max({m.largest, dot, m.products});
  }
  return m;
}

// The bounds of the scores of one token; negative where a sum may overflow on its way, and nothing is said.
std::vector<double> bounds_of(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  const DType operand = args.key_cache.keys.dtype;
  const auto dim = static_cast<double>(problem.head_dim);
  const double of_dot = operand == DType::kF32 ? dim / 16.0 + 8.0 : dim + 2.0;
  const double roundings = of_dot + 2.0 * static_cast<double>(problem.heads) + 2.0;
  std::vector<std::vector<double>> heads;
  for (int64_t h = 0; h < problem.heads; ++h) heads.push_back(values_of(args.q[t][h]));
  std::vector<double> bounds(static_cast<size_t>(problem.context), 0.0);
  for (int64_t s = 0; s < visible(problem, place.position); ++s) {
    const Magnitude m =
        magnitude(heads, args.weights[t], values_of(args.key_cache.key(place.sequence, s)), flushes(problem));
    const bool scaled = operand == DType::kF8_E4M3;
    const double scale = scaled ? finite(args.key_cache.scale(place.sequence, s)) : 1.0;
    const bool overflow = std::max(m.largest, m.products * scale) > kOverflow;
    bounds[static_cast<size_t>(s)] =
        overflow ? -1.0 : scale * (roundings * kUnit * m.products + m.lost) + kSmallest;
  }
  return bounds;
}

// The choice that these scores make.
void choose(std::span<const float> scores, Ties ties, View<int32_t, 1> selected) {
  std::vector<uint64_t> keys;
  for (size_t s = 0; s < scores.size(); ++s)
    keys.push_back(rank_key(scores[s], static_cast<int32_t>(s), ties));
  const size_t count = std::min(keys.size(), static_cast<size_t>(selected.extent[0]));
  if (count > 0)
    std::nth_element(keys.begin(), keys.begin() + static_cast<int64_t>(count) - 1, keys.end(),
                     std::greater<>());
  std::vector<int32_t> chosen(static_cast<size_t>(selected.extent[0]), -1);
  for (size_t i = 0; i < count; ++i) chosen[i] = position_of(keys[i], ties);
  std::sort(chosen.begin(), chosen.begin() + static_cast<int64_t>(count));
  for (int64_t j = 0; j < selected.extent[0]; ++j) selected(j) = chosen[static_cast<size_t>(j)];
}

// The scores that a key can have: codes of order alone.
struct Order {
  uint64_t low;
  uint64_t high;
};

Order order_of(float score, double bound) {
  if (bound < 0.0) return {0, std::numeric_limits<uint64_t>::max()};
  const auto code = [](double value) { return rank_key(static_cast<float>(value), 0, Ties::kLower); };
  return {code(score - bound), code(score + bound)};
}

std::vector<int32_t> sorted(View<const int32_t, 1> row) {
  std::vector<int32_t> positions(row.data, row.data + row.extent[0]);
  std::sort(positions.begin(), positions.end());
  return positions;
}

// Did the row choose a key that is surely worse than one it left?
bool surely_wrong(View<const int32_t, 1> actual, View<const int32_t, 1> expected,
                  std::span<const float> scores, std::span<const double> bounds) {
  const std::vector<int32_t> a = sorted(actual), b = sorted(expected);
  std::vector<int32_t> taken, left;
  std::set_difference(a.begin(), a.end(), b.begin(), b.end(), std::back_inserter(taken));
  std::set_difference(b.begin(), b.end(), a.begin(), a.end(), std::back_inserter(left));
  uint64_t worst_taken = std::numeric_limits<uint64_t>::max(), best_left = 0;
  for (const int32_t s : taken) {
    if (s < 0 || s >= static_cast<int32_t>(scores.size())) return true;
    const auto at = static_cast<size_t>(s);
    worst_taken = std::min(worst_taken, order_of(scores[at], bounds[at]).high);
  }
  for (const int32_t s : left) {
    if (s < 0) return true;
    const auto at = static_cast<size_t>(s);
    best_left = std::max(best_left, order_of(scores[at], bounds[at]).low);
  }
  return taken.size() != left.size() || worst_taken < best_left;
}

std::vector<float> as_floats(View<const int32_t, 2> positions) {
  std::vector<float> values;
  for (int64_t t = 0; t < positions.extent[0]; ++t)
    for (int64_t j = 0; j < positions.extent[1]; ++j) values.push_back(static_cast<float>(positions(t, j)));
  return values;
}

// Of what the row has selected.
std::vector<float> expected_slots(const Args& args) {
  std::vector<float> slots;
  for (int64_t t = 0; t < args.slots.extent[0]; ++t)
    for (int64_t j = 0; j < args.slots.extent[1]; ++j)
      slots.push_back(
          static_cast<float>(slot_of(args.key_cache.pages, args.places(t).sequence, args.selected(t, j))));
  return slots;
}

audit::OutputReport equal(const char* name, const std::vector<float>& actual,
                          const std::vector<float>& expected) {
  return {name, audit::compare(actual, expected, std::vector<double>(expected.size(), 0.0))};
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  Outputs own, reference, best;
  row.run(problem, args, lane);
  const audit::OwnedTensor<2> selected(DType::kI32, args.selected.extent),
      scores(DType::kF32, {args.q.extent[0], problem.context});
  Args again = args;
  again.selected = selected.view().as<int32_t>();
  again.scores = scores.view().as<float>();
  row.run(problem, again, lane);
  if (args.scores)
    for (int64_t t = 0; t < args.q.extent[0]; ++t)
      std::copy_n(args.scores[t].data, problem.context, again.scores[t].data);
  own.selected.assign(again.selected.data, again.selected.data + again.selected.size());
  own.scores.assign(again.scores.data, again.scores.data + again.scores.size());
  const Args expected = redirected(problem, args, reference), rule = redirected(problem, args, best);
  kReference.run(problem, expected, {});

  const size_t context = static_cast<size_t>(problem.context);
  std::vector<double> bounds;
  std::vector<float> wrong;
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    const auto first = static_cast<size_t>(t) * context;
    const auto visible = static_cast<size_t>(index_select::visible(problem, args.places(t).position));
    choose({own.scores.data() + first, visible}, problem.setting.numerics.ties, rule.selected[t]);
    std::vector<double> bound = bounds_of(problem, args, t);
    const std::span<const float> scores(reference.scores.data() + first, visible);
    wrong.push_back(surely_wrong(args.selected[t], expected.selected[t], scores, bound) ? 1.0f : 0.0f);
    for (size_t s = 0; s < context; ++s)
      if (bound[s] < 0.0) reference.scores[first + s] = own.scores[first + s];
    for (double& b : bound) b = std::max(b, 0.0);
    bounds.insert(bounds.end(), bound.begin(), bound.end());
  }
  audit::OpReport report;
  report.outputs.push_back({"scores", audit::compare(own.scores, reference.scores, bounds)});
  report.outputs.push_back(equal("selected", as_floats(args.selected), as_floats(rule.selected)));
  if (args.slots) report.outputs.push_back(equal("slots", as_floats(args.slots), expected_slots(args)));
  report.outputs.push_back(equal("choice", wrong, std::vector<float>(wrong.size(), 0.0f)));
  return report;
}

}  // namespace fulgurite::index_select
