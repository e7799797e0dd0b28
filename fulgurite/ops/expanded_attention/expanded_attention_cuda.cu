#include <algorithm>

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/attend.h"
#include "fulgurite/cuda/matrix.h"
#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

constexpr int64_t kMostScratch = int64_t{256} << 20;  // bytes
constexpr int64_t kMostTokens = 64;                   // that go through the phases at once

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

struct Memory {
  cuda::Pairs pairs;
  float* expanded = nullptr;  // [pairs, topk, nope + value]: k and v
};

Memory memory_in(const Problem& problem, cuda::Scratch& scratch, int64_t pairs) {
  const int64_t topk = problem.topk;
  Memory memory;
  memory.pairs = cuda::pairs_in(scratch, pairs, topk, problem.value,
                                sparse_attention::tile_slots(problem.setting.numerics.softmax_tile, topk));
  memory.expanded = scratch.take<float>(pairs * topk * (problem.nope + problem.value));
  return memory;
}

int64_t bytes_of(const Problem& problem, int64_t pairs) {
  cuda::Scratch scratch;
  memory_in(problem, scratch, pairs);
  return scratch.used();
}

// Pairs of token and head that go through the phases at once.
int64_t chunk_of(const Problem& problem) {
  const int64_t most = std::max<int64_t>(kMostTokens * problem.heads, 1);
  return std::clamp<int64_t>(kMostScratch / bytes_of(problem, 1), 1, most);
}

// A chunk of pairs, which begins with `first`.
struct Chunk {
  Problem problem;
  Args args;
  cuda::Matrix weight;
  WeightReading reading;
  int64_t first;
  Memory memory;

  FULGURITE_HOST_DEVICE int64_t token(int64_t pair) const { return (first + pair) / problem.heads; }
  FULGURITE_HOST_DEVICE int64_t head(int64_t pair) const { return (first + pair) % problem.heads; }
  FULGURITE_HOST_DEVICE int64_t columns() const { return problem.nope + problem.value; }
  FULGURITE_HOST_DEVICE const std::byte* row(int64_t t, int64_t slot) const {
    return args.cache.rows[args.places(t).sequence][args.selected(t, slot)].data;
  }
  FULGURITE_HOST_DEVICE float* expanded(int64_t pair, int64_t slot) const {
    return memory.expanded + (pair * problem.topk + slot) * columns();
  }
};

// Index: a pair.
struct CountSlots {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t pair) const {
    const int64_t t = chunk.token(pair);
    int64_t count = 0;
    while (count < chunk.problem.topk && chunk.args.selected(t, count) >= 0) ++count;
    chunk.memory.pairs.slots_of[pair] = count;
  }
};

// Index: an element of a pair's keys and values.
struct Expand {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t d = index % chunk.columns(), slot = index / chunk.columns() % chunk.problem.topk;
    const int64_t pair = index / chunk.columns() / chunk.problem.topk;
    if (slot >= chunk.memory.pairs.slots_of[pair]) return;
    const std::byte* const row = chunk.row(chunk.token(pair), slot);
    const int64_t weight_row = chunk.head(pair) * chunk.columns() + d;
    double sum = 0.0;
    for (int64_t c = 0; c < chunk.problem.latent; ++c)
      sum += static_cast<double>(chunk.args.cache.row.latent_value(row, c)) *
             chunk.weight.read(chunk.reading, weight_row, c);
    chunk.memory.expanded[index] = round_to(chunk.args.q.dtype, static_cast<float>(sum));
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
    const Problem& problem = chunk.problem;
    const int64_t pair = index / problem.topk, slot = index % problem.topk;
    if (slot >= chunk.memory.pairs.slots_of[pair]) return;
    const int64_t t = chunk.token(pair), h = chunk.head(pair);
    const float* const key = chunk.expanded(pair, slot);
    const std::byte* const row = chunk.row(t, slot);
    double sum = 0.0;
    for (int64_t d = 0; d < problem.nope; ++d) sum += operand(load(chunk.args.q, t, h, d)) * operand(key[d]);
    for (int64_t r = 0; r < problem.rope; ++r)
      sum += operand(load(chunk.args.q, t, h, problem.nope + r)) *
             operand(chunk.args.cache.row.rope_value(row, r));
    chunk.memory.pairs.scores[index] = static_cast<float>(sum) * problem.scale;
  }
};

// What a slot's weight multiplies.
struct SlotValue {
  Chunk chunk;

  FULGURITE_HOST_DEVICE float operator()(int64_t pair, int64_t slot, int64_t d) const {
    return chunk.expanded(pair, slot)[chunk.problem.nope + d];
  }
};

// Index: a column of a pair.
struct Store {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t pair = index / chunk.problem.value, d = index % chunk.problem.value;
    store(chunk.args.out, chunk.memory.pairs.out[index], chunk.token(pair), chunk.head(pair), d);
  }
};

int64_t workspace_bytes(const Problem& problem, int) { return bytes_of(problem, chunk_of(problem)); }

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const cuda::Matrix weight(*args.weight);
  const WeightReading reading = reading_of(problem.setting.numerics);
  const int64_t all = args.q.extent[0] * problem.heads, most = chunk_of(problem);
  for (int64_t first = 0; first < all; first += most) {
    cuda::Scratch scratch(lane);
    const Memory memory = memory_in(problem, scratch, std::min(most, all - first));
    const Chunk chunk{problem, args, weight, reading, first, memory};
    const int64_t slots = memory.pairs.count * problem.topk;
    cuda::for_each(lane, memory.pairs.count, CountSlots{chunk});
    cuda::for_each(lane, slots * chunk.columns(), Expand{chunk});
    cuda::for_each(lane, slots, Score{chunk});
    cuda::attend(lane, problem.setting.numerics, memory.pairs, SlotValue{chunk});
    cuda::for_each(lane, memory.pairs.count * problem.value, Store{chunk});
  }
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::expanded_attention
