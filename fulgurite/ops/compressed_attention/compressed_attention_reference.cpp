#include <cmath>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::compressed_attention {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mla, {Mla::kAbsorbed}), takes_kv_row(numerics),
                        takes(numerics.mma, {Mma::kExact})});
}

constexpr float kNothing = sparse_attention::kNoSink;  // the score of a slot without a key

// The slots of a token: a row's values, or none where the slot is -1.
using Slots = std::vector<std::vector<float>>;

std::vector<float> values_of(const Problem& problem, const ConstKvRows& rows, int64_t sequence, int64_t row) {
  std::vector<float> values;
  for (int64_t c = 0; c < problem.head_dim; ++c) values.push_back(rows.value(sequence, row, c));
  return values;
}

Slots slots_of(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  Slots slots;
  for (int64_t p = window_of(problem, place.position).first; p <= place.position; ++p)
    slots.push_back(values_of(problem, args.window, place.sequence, p % problem.ring));
  slots.resize(static_cast<size_t>(problem.window));
  for (int64_t j = 0; j < entries_of(problem, args, t); ++j)
    slots.push_back(
        values_of(problem, args.entries, place.sequence, problem.topk > 0 ? args.selected(t, j) : j));
  return slots;
}

std::vector<float> scores_of(const Problem& problem, const Args& args, int64_t t, int64_t h,
                             const Slots& slots) {
  const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
  const auto operand = [&](float x) { return static_cast<double>(narrow ? round_to_bf16(x) : x); };
  std::vector<float> scores;
  for (const std::vector<float>& row : slots) {
    double sum = 0.0;
    for (size_t c = 0; c < row.size(); ++c)
      sum += operand(load(args.q, t, h, static_cast<int64_t>(c))) * operand(row[c]);
    scores.push_back(row.empty() ? kNothing : static_cast<float>(sum) * problem.scale);
  }
  return scores;
}

// Rotates the last columns of x back, by the token's position.
template <class Float>
void rotate_back(const Problem& problem, const Args& args, int64_t t, std::vector<Float>& x) {
  const int64_t position = args.places(t).position;
  for (int64_t i = 0; i < problem.rope / 2; ++i) {
    const Float cosine = args.table.cosine(position, i), sine = args.table.sine(position, i);
    Float* const pair = x.data() + problem.head_dim - problem.rope + 2 * i;
    const Float first = pair[0] * cosine + pair[1] * sine;
    pair[1] = pair[1] * cosine - pair[0] * sine;
    pair[0] = first;
  }
}

void run(const Problem& problem, const Args& args, const Lane&) {
  Args typed = args;  // the audit asks for what is not rounded yet: out is of any type here
  typed.out.dtype = activation_type(problem.setting.numerics);
  check(problem, typed);
  const Numerics& numerics = problem.setting.numerics;
  const bool narrow = numerics.softmax_p == SoftmaxP::kBf16;
  std::vector<float> out(static_cast<size_t>(problem.head_dim));
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    const Slots slots = slots_of(problem, args, t);
    const auto value = [&](int64_t j, int64_t c) {
      const std::vector<float>& row = slots[static_cast<size_t>(j)];
      if (row.empty()) return 0.0f;
      return narrow ? round_to_bf16(row[static_cast<size_t>(c)]) : row[static_cast<size_t>(c)];
    };
    for (int64_t h = 0; h < problem.heads; ++h) {
      sparse_attention::reference_attend(numerics, scores_of(problem, args, t, h, slots), value, out,
                                         args.sink(h));
      rotate_back(problem, args, t, out);
      for (int64_t c = 0; c < problem.head_dim; ++c) store(args.out, out[static_cast<size_t>(c)], t, h, c);
    }
  }
}

// --- the definition ---

std::vector<double> attend_in_double(const Problem& problem, const Args& args, int64_t t, int64_t h,
                                     const Slots& slots) {
  std::vector<double> scores;
  double largest = args.sink(h);
  for (const std::vector<float>& row : slots) {
    double sum = 0.0;
    for (size_t c = 0; c < row.size(); ++c)
      sum += static_cast<double>(load(args.q, t, h, static_cast<int64_t>(c))) * row[c];
    scores.push_back(row.empty() ? -HUGE_VAL : sum * problem.scale);
    largest = std::max(largest, scores.back());
  }
  double denominator = std::exp(args.sink(h) - largest);
  std::vector<double> out(static_cast<size_t>(problem.head_dim));
  for (size_t j = 0; j < slots.size(); ++j) {
    if (slots[j].empty()) continue;
    const double weight = std::exp(scores[j] - largest);
    denominator += weight;
    for (size_t c = 0; c < out.size(); ++c) out[c] += weight * slots[j][c];
  }
  for (double& x : out) x /= denominator;
  return out;
}

}  // namespace

void definition(const Problem& problem, const Args& args, View<double, 3> out) {
  check(problem, args);
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    const Slots slots = slots_of(problem, args, t);
    for (int64_t h = 0; h < problem.heads; ++h) {
      std::vector<double> head = attend_in_double(problem, args, t, h, slots);
      rotate_back(problem, args, t, head);
      for (int64_t c = 0; c < problem.head_dim; ++c) out(t, h, c) = head[static_cast<size_t>(c)];
    }
  }
}

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::compressed_attention
