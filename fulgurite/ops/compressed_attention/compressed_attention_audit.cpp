#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

namespace fulgurite::compressed_attention {
namespace {

using sparse_attention::Score;

constexpr double kUnit = 0x1p-24;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The slots of a token: a row's values, or none.
using Slots = std::vector<std::vector<float>>;

std::vector<float> values_of(const Problem& problem, const ConstKvRows& rows, int64_t sequence, int64_t row) {
  std::vector<float> values;
  for (int64_t c = 0; c < problem.head_dim; ++c) values.push_back(rows.value(sequence, row, c));
  return values;
}

Slots slots_of(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  const Seen seen = window_of(problem, place.position);
  Slots slots(static_cast<size_t>(problem.window));
  for (int64_t j = 0; j < seen.count; ++j)
    slots[static_cast<size_t>(j)] =
        values_of(problem, args.window, place.sequence, (seen.first + j) % problem.ring);
  for (int64_t j = 0; j < entries_of(problem, args, t); ++j)
    slots.push_back(
        values_of(problem, args.entries, place.sequence, problem.topk > 0 ? args.selected(t, j) : j));
  return slots;
}

std::vector<Score> scores_of(const Problem& problem, const Args& args, int64_t t, int64_t h,
                             const Slots& slots) {
  std::vector<float> query;
  for (int64_t c = 0; c < problem.head_dim; ++c) query.push_back(load(args.q, t, h, c));
  std::vector<Score> scores;
  for (const std::vector<float>& row : slots)
    scores.push_back(row.empty() ? Score{-kInfinity, 0.0}
                                 : sparse_attention::score_of(problem.setting, query, row, problem.scale));
  return scores;
}

struct Rotation {
  double cosine, sine;
};
Rotation rotation_of(const Args& args, int64_t t, int64_t pair) {
  return {args.table.cosine(args.places(t).position, pair), args.table.sine(args.places(t).position, pair)};
}

// The magnitudes that the sums of a head had before they were rotated, at most.
std::vector<float> unrotated(const Problem& problem, const Args& args, int64_t t, std::vector<float> out) {
  for (int64_t i = 0; i < problem.rope / 2; ++i) {
    float* const pair = out.data() + problem.head_dim - problem.rope + 2 * i;
    const Rotation r = rotation_of(args, t, i);
    const double both = std::abs(static_cast<double>(pair[0])) + std::abs(static_cast<double>(pair[1]));
    pair[0] = pair[1] = static_cast<float>(both / std::hypot(r.cosine, r.sine));
  }
  return out;
}

// What rotating adds: both sides make the same three roundings of numbers that are apart.
void rotate_bounds(const Problem& problem, const Args& args, int64_t t, std::span<const float> out,
                   std::span<double> bounds) {
  for (int64_t i = 0; i < problem.rope / 2; ++i) {
    const auto first = static_cast<size_t>(problem.head_dim - problem.rope + 2 * i), second = first + 1;
    const Rotation r = rotation_of(args, t, i);
    const double c = std::abs(r.cosine), s = std::abs(r.sine);
    const auto bound = [&](size_t a, size_t b) {
      const double moved = c * bounds[a] + s * bounds[b];
      const double size =
          c * std::abs(static_cast<double>(out[a])) + s * std::abs(static_cast<double>(out[b]));
      return moved + 3.0 * kUnit * (2.0 * size + moved) + 0x1p-147;
    };
    const double of_first = bound(first, second), of_second = bound(second, first);
    bounds[first] = of_first;
    bounds[second] = of_second;
  }
}

}  // namespace

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane) {
  row.run(problem, args, lane);
  const int64_t tokens = args.q.extent[0];
  const auto width = static_cast<size_t>(problem.head_dim);
  std::vector<float> expected(static_cast<size_t>(tokens * problem.heads) * width), actual;
  Args unrounded = args;  // the reference before its last rounding: it stores what the tensor's type holds
  unrounded.out = View<float, 3>(expected.data(), {tokens, problem.heads, problem.head_dim});
  kReference.run(problem, unrounded, {});
  const bool narrow = problem.setting.numerics.softmax_p == SoftmaxP::kBf16;
  std::vector<double> bounds;
  for (int64_t t = 0; t < tokens; ++t) {
    const Slots slots = slots_of(problem, args, t);
    const auto value = [&](int64_t j, int64_t c) {
      const std::vector<float>& slot = slots[static_cast<size_t>(j)];
      if (slot.empty()) return Interval{0.0, 0.0};
      const float v = slot[static_cast<size_t>(c)];
      return Interval::around(narrow ? round_to_bf16(v) : v, 0.0);
    };
    for (int64_t h = 0; h < problem.heads; ++h) {
      const auto out = std::span<const float>(expected).subspan(bounds.size(), width);
      const std::vector<float> sums = unrotated(problem, args, t, {out.begin(), out.end()});
      const std::vector<Score> scores = scores_of(problem, args, t, h, slots);
      std::vector<double> bound =
          sparse_attention::attend_bound(problem.setting, scores, value, sums, args.sink(h));
      if (problem.runs > 0) {
        const auto of_value = [&](int64_t j, int64_t c) { return value(j, c).high; };
        const auto more = sparse_attention::bound_of_runs(problem.runs, scores, of_value, sums);
        for (size_t c = 0; c < width; ++c) bound[c] += more[c];
      }
      rotate_bounds(problem, args, t, sums, bound);
      bounds.insert(bounds.end(), bound.begin(), bound.end());
      for (int64_t c = 0; c < problem.head_dim; ++c)
        actual.push_back(load(ConstTensor<3>(args.out), t, h, c));
    }
  }
  sparse_attention::round_expected(args.out.dtype, expected, bounds);
  return {{{"out", audit::compare(actual, expected, bounds)}}};
}

}  // namespace fulgurite::compressed_attention
