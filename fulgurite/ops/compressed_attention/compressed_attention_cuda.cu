#include <algorithm>

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/attend.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::compressed_attention {
namespace {

constexpr int64_t kMostScratch = int64_t{256} << 20;  // bytes

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// The most that a token has: the window's, then entries.
int64_t most_slots(const Problem& problem) {
  if (problem.ratio == 0) return problem.window;
  return problem.window + (problem.topk > 0 ? problem.topk : problem.entries);
}

cuda::Pairs pairs_in(const Problem& problem, cuda::Scratch& scratch, int64_t count) {
  const int64_t slots = most_slots(problem);
  return cuda::pairs_in(scratch, count, slots, problem.head_dim,
                        sparse_attention::tile_slots(problem.setting.numerics.softmax_tile, slots));
}

int64_t bytes_of(const Problem& problem, int64_t pairs) {
  cuda::Scratch scratch;
  pairs_in(problem, scratch, pairs);
  return scratch.used();
}

// Pairs of token and head that go through the phases at once.
int64_t chunk_of(const Problem& problem) {
  const int64_t all = std::max<int64_t>(problem.largest_batch, 1) * problem.heads;
  return std::clamp<int64_t>(kMostScratch / bytes_of(problem, 1), 1, std::max<int64_t>(all, 1));
}

// A chunk of pairs, which begins with `first`.
struct Chunk {
  Problem problem;
  Args args;
  int64_t first;
  cuda::Pairs pairs;

  FULGURITE_HOST_DEVICE int64_t token(int64_t pair) const { return (first + pair) / problem.heads; }
  FULGURITE_HOST_DEVICE int64_t head(int64_t pair) const { return (first + pair) % problem.heads; }

  // The row of a slot, in the window or among the entries; -1: it has none.
  FULGURITE_HOST_DEVICE int64_t row(int64_t t, int64_t slot) const {
    if (slot >= problem.window) {
      const int64_t j = slot - problem.window;
      return problem.topk > 0 ? args.selected(t, j) : j;
    }
    const Seen seen = window_of(problem, args.places(t).position);
    return slot < seen.count ? (seen.first + slot) % problem.ring : -1;
  }
  FULGURITE_HOST_DEVICE float value(int64_t t, int64_t slot, int64_t row, int64_t c) const {
    const ConstKvRows& rows = slot < problem.window ? args.window : args.entries;
    return rows.value(args.places(t).sequence, row, c);
  }
};

// Index: a pair.
struct CountSlots {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t pair) const {
    const int64_t entries = entries_of(chunk.problem, chunk.args, chunk.token(pair));
    chunk.pairs.slots_of[pair] = chunk.problem.window + entries;
  }
};

// Index: a slot of a pair.
struct Score {
  Chunk chunk;

  FULGURITE_HOST_DEVICE double operand(float x) const {
    const bool narrow = chunk.problem.setting.numerics.qk_operands == QkOperands::kBf16;
    return static_cast<double>(narrow ? round_to_bf16(x) : x);
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t pair = index / chunk.pairs.slots, slot = index % chunk.pairs.slots;
    if (slot >= chunk.pairs.slots_of[pair]) return;
    const int64_t t = chunk.token(pair), h = chunk.head(pair), row = chunk.row(t, slot);
    double sum = 0.0;
    for (int64_t c = 0; c < chunk.problem.head_dim && row >= 0; ++c)
      sum += operand(load(chunk.args.q, t, h, c)) * operand(chunk.value(t, slot, row, c));
    chunk.pairs.scores[index] = row < 0 ? cuda::kNothing : static_cast<float>(sum) * chunk.problem.scale;
  }
};

// What a slot's weight multiplies.
struct SlotValue {
  Chunk chunk;

  FULGURITE_HOST_DEVICE float operator()(int64_t pair, int64_t slot, int64_t c) const {
    const int64_t t = chunk.token(pair), row = chunk.row(t, slot);
    if (row < 0) return 0.0f;
    return cuda::softmax_operand(chunk.problem.setting.numerics, chunk.value(t, slot, row, c));
  }
};

// Index: two neighbouring columns of a pair.
struct RotateBack {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const Problem& problem = chunk.problem;
    const int64_t halves = problem.head_dim / 2, pair = index / halves, c = index % halves * 2;
    const int64_t t = chunk.token(pair), h = chunk.head(pair);
    const float* const x = chunk.pairs.out + pair * problem.head_dim + c;
    float first = x[0], second = x[1];
    const int64_t rotated = c - (problem.head_dim - problem.rope);
    if (rotated >= 0) {
      const int64_t position = chunk.args.places(t).position;
      const float cosine = chunk.args.table.cosine(position, rotated / 2);
      const float sine = chunk.args.table.sine(position, rotated / 2);
      first = x[0] * cosine + x[1] * sine;
      second = x[1] * cosine - x[0] * sine;
    }
    store(chunk.args.out, first, t, h, c);
    store(chunk.args.out, second, t, h, c + 1);
  }
};

int64_t workspace_bytes(const Problem& problem, int) { return bytes_of(problem, chunk_of(problem)); }

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t all = args.q.extent[0] * problem.heads, most = chunk_of(problem);
  for (int64_t first = 0; first < all; first += most) {
    cuda::Scratch scratch(lane);
    const Chunk chunk{problem, args, first, pairs_in(problem, scratch, std::min(most, all - first))};
    const cuda::Pairs& pairs = chunk.pairs;
    cuda::for_each(lane, pairs.count, CountSlots{chunk});
    cuda::for_each(lane, pairs.count * pairs.slots, Score{chunk});
    cuda::attend(lane, problem.setting.numerics, pairs, SlotValue{chunk}, args.sink, first);
    cuda::for_each(lane, pairs.count * problem.head_dim / 2, RotateBack{chunk});
  }
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::compressed_attention
