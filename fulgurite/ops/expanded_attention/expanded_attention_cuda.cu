#include <algorithm>

#include "fulgurite/cuda/attend.h"
#include "fulgurite/cuda/matrix.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"

namespace fulgurite::expanded_attention {
namespace {

constexpr int64_t kMostPairs = 4096;                         // of token and head, expanded at once
constexpr int64_t kMostExpanded = (int64_t{256} << 20) / 4;  // values

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Of a pair of token and head: k and v of its list.
int64_t expanded_of(const Problem& problem) { return problem.topk * (problem.nope + problem.value); }

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(kMostExpanded / expanded_of(problem), 1, kMostPairs);
}

// To attend() a pair is a token with one head.
cuda::AttendShape shape_of(const Problem& problem) {
  return {1, problem.topk, problem.value, problem.setting.numerics};
}

// [pairs, topk, nope + value] of a chunk, behind what attend() works with.
float* expanded_in(const Problem& problem, cuda::Scratch& scratch) {
  cuda::attend_memory(shape_of(problem), chunk_of(problem), scratch);
  return scratch.take<float>(chunk_of(problem) * expanded_of(problem));
}

// A chunk of pairs, which begins with `first`.
struct Pairs {
  Problem problem;
  Args args;
  int64_t first;
  float* expanded;

  FULGURITE_HOST_DEVICE int64_t token(int64_t pair) const { return (first + pair) / problem.heads; }
  FULGURITE_HOST_DEVICE int64_t head(int64_t pair) const { return (first + pair) % problem.heads; }
  FULGURITE_HOST_DEVICE int64_t columns() const { return problem.nope + problem.value; }
  FULGURITE_HOST_DEVICE const std::byte* row(int64_t pair, int64_t j) const {
    const int64_t t = token(pair);
    return args.cache.at(args.places(t).sequence, args.selected(t, j));
  }
  FULGURITE_HOST_DEVICE const float* key(int64_t pair, int64_t j) const {
    return expanded + (pair * problem.topk + j) * columns();
  }
  FULGURITE_HOST_DEVICE double operand(float x) const {
    const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
    return static_cast<double>(narrow ? round_to_bf16(x) : x);
  }

  FULGURITE_HOST_DEVICE int64_t count(int64_t pair) const {
    int64_t count = 0;
    while (count < problem.topk && args.selected(token(pair), count) >= 0) ++count;
    return count;
  }
  FULGURITE_HOST_DEVICE float score(int64_t pair, int64_t, int64_t j) const {
    const int64_t t = token(pair), h = head(pair);
    const float* const k = key(pair, j);
    const std::byte* const rest = row(pair, j);
    double sum = 0.0;
    for (int64_t d = 0; d < problem.nope; ++d) sum += operand(load(args.q, t, h, d)) * operand(k[d]);
    for (int64_t r = 0; r < problem.rope; ++r)
      sum += operand(load(args.q, t, h, problem.nope + r)) * operand(args.cache.row.rope_value(rest, r));
    return static_cast<float>(sum) * problem.scale;
  }
  FULGURITE_HOST_DEVICE float value(int64_t pair, int64_t, int64_t j, int64_t d) const {
    return key(pair, j)[problem.nope + d];
  }
  FULGURITE_HOST_DEVICE float sink(int64_t) const { return -std::numeric_limits<float>::infinity(); }
  FULGURITE_HOST_DEVICE void store(int64_t pair, int64_t, int64_t d, float value) const {
    fulgurite::store(args.out, value, token(pair), head(pair), d);
  }
};

// Index: an element of a pair's keys and values.
struct Expand {
  Pairs on;
  cuda::Matrix weight;
  WeightReading reading;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t d = index % on.columns(), j = index / on.columns() % on.problem.topk;
    const int64_t pair = index / on.columns() / on.problem.topk;
    if (on.args.selected(on.token(pair), j) < 0) return;
    const std::byte* const row = on.row(pair, j);
    const int64_t weight_row = on.head(pair) * on.columns() + d;
    double sum = 0.0;
    for (int64_t c = 0; c < on.problem.latent; ++c)
      sum +=
          static_cast<double>(on.args.cache.row.latent_value(row, c)) * weight.read(reading, weight_row, c);
    on.expanded[index] = round_to(on.args.q.dtype, static_cast<float>(sum));
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  expanded_in(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  float* const expanded = expanded_in(problem, scratch);
  const cuda::Matrix weight(*args.weight);
  const WeightReading reading = reading_of(problem.setting.numerics);
  const int64_t pairs = args.q.extent[0] * problem.heads, most = chunk_of(problem);
  for (int64_t first = 0; first < pairs; first += most) {
    const int64_t count = std::min(most, pairs - first);
    const Pairs on{problem, args, first, expanded};
    cuda::for_each(lane, count * expanded_of(problem), Expand{on, weight, reading});
    cuda::attend(lane, shape_of(problem), on, count);
  }
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::expanded_attention
