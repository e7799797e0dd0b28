#include <algorithm>

#include "fulgurite/cuda/attend.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"

namespace fulgurite::compressed_attention {
namespace {

constexpr int64_t kMostTokens = 256;  // that go through the phases at once

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(problem.largest_batch, 1, kMostTokens);
}

cuda::AttendShape shape_of(const Problem& problem) {
  const int64_t entries = problem.topk > 0 ? problem.topk : problem.ratio > 0 ? problem.entries : 0;
  return {problem.heads, problem.window + entries, problem.head_dim, problem.setting.numerics};
}

// [tokens, heads, head_dim] of a chunk: o, behind what attend() works with.
float* attended_in(const Problem& problem, cuda::Scratch& scratch) {
  cuda::attend_memory(shape_of(problem), chunk_of(problem), scratch);
  return scratch.take<float>(chunk_of(problem) * problem.heads * problem.head_dim);
}

// A chunk of tokens, which begins with `first`.
struct Slots {
  Problem problem;
  Args args;
  int64_t first;
  float* attended;

  FULGURITE_HOST_DEVICE int64_t count(int64_t t) const {
    return problem.window + entries_of(problem, args, first + t);
  }
  // The row of a slot, in the window or among the entries; -1: it has none.
  FULGURITE_HOST_DEVICE int64_t row(int64_t t, int64_t slot) const {
    if (slot >= problem.window) {
      const int64_t j = slot - problem.window;
      return problem.topk > 0 ? args.selected(first + t, j) : j;
    }
    const Seen seen = window_of(problem, args.places(first + t).position);
    return slot < seen.count ? (seen.first + slot) % problem.ring : -1;
  }
  FULGURITE_HOST_DEVICE float key(int64_t t, int64_t slot, int64_t row, int64_t c) const {
    const ConstKvRows& rows = slot < problem.window ? args.window : args.entries;
    return rows.value(args.places(first + t).sequence, row, c);
  }
  FULGURITE_HOST_DEVICE double operand(float x) const {
    const bool narrow = problem.setting.numerics.qk_operands == QkOperands::kBf16;
    return static_cast<double>(narrow ? round_to_bf16(x) : x);
  }

  FULGURITE_HOST_DEVICE float score(int64_t t, int64_t h, int64_t slot) const {
    const int64_t at = row(t, slot);
    if (at < 0) return -std::numeric_limits<float>::infinity();
    double sum = 0.0;
    for (int64_t c = 0; c < problem.head_dim; ++c)
      sum += operand(load(args.q, first + t, h, c)) * operand(key(t, slot, at, c));
    return static_cast<float>(sum) * problem.scale;
  }
  FULGURITE_HOST_DEVICE float value(int64_t t, int64_t, int64_t slot, int64_t c) const {
    const int64_t at = row(t, slot);
    if (at < 0) return 0.0f;
    const float value = key(t, slot, at, c);
    return problem.setting.numerics.softmax_p == SoftmaxP::kBf16 ? round_to_bf16(value) : value;
  }
  FULGURITE_HOST_DEVICE float sink(int64_t h) const { return args.sink(h); }
  FULGURITE_HOST_DEVICE void store(int64_t t, int64_t h, int64_t c, float value) const {
    attended[(t * problem.heads + h) * problem.head_dim + c] = value;
  }
};

// Index: two neighbouring columns of a token's head.
struct RotateBack {
  Slots on;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const Problem& problem = on.problem;
    const int64_t c = 2 * index % problem.head_dim, row = 2 * index / problem.head_dim;
    const int64_t t = on.first + row / problem.heads, h = row % problem.heads;
    const float a = on.attended[2 * index], b = on.attended[2 * index + 1];
    const int64_t rotated = c - (problem.head_dim - problem.rope);
    float first = a, second = b;
    if (rotated >= 0) {
      const int64_t position = on.args.places(t).position;
      const float cosine = on.args.table.cosine(position, rotated / 2);
      const float sine = on.args.table.sine(position, rotated / 2);
      first = a * cosine + b * sine;
      second = b * cosine - a * sine;
    }
    fulgurite::store(on.args.out, first, t, h, c);
    fulgurite::store(on.args.out, second, t, h, c + 1);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  attended_in(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  float* const attended = attended_in(problem, scratch);
  const int64_t tokens = args.q.extent[0], most = chunk_of(problem);
  for (int64_t first = 0; first < tokens; first += most) {
    const int64_t count = std::min(most, tokens - first);
    const Slots on{problem, args, first, attended};
    cuda::attend(lane, shape_of(problem), on, count);
    cuda::for_each(lane, count * problem.heads * problem.head_dim / 2, RotateBack{on});
  }
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::compressed_attention
