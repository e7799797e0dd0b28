#pragma once
// Softmax and weighted sums of the generic rows of attention, as sparse_attention::reference_attend makes them
// of every value of the knobs softmax_*. A `Case` says of what:
//
//   int64_t count(t)              entries of a token's list, at most `slots`
//   float score(t, h, j)          -infinity: no key
//   float value(t, h, j, c)
//   float sink(h)                 -infinity: none
//   void store(t, h, c, value)

#include <cmath>
#include <limits>

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"

namespace fulgurite::cuda {

struct AttendShape {
  int64_t heads = 0;
  int64_t slots = 0;  // the longest list
  int64_t columns = 0;
  Numerics numerics;

  FULGURITE_HOST_DEVICE int64_t tile(int64_t count) const {
    if (numerics.softmax_tile == SoftmaxTile::kNone) return count;
    return numerics.softmax_tile == SoftmaxTile::k64 ? 64 : 128;
  }
  int64_t most_tiles() const {
    return numerics.softmax_tile == SoftmaxTile::kNone ? 1 : (slots + tile(slots) - 1) / tile(slots);
  }
};

// What lies between the phases, of `tokens` tokens at a time.
struct AttendMemory {
  int64_t tokens = 0, slots = 0, tiles = 0;
  float* p = nullptr;            // [tokens, heads, slots]: scores, then weights
  float* before = nullptr;       // [tokens, heads, tiles]: what rescales the sums before a tile
  float* own = nullptr;          // [tokens, heads, tiles]: and its own
  float* denominator = nullptr;  // [tokens, heads]
};

inline AttendMemory attend_memory(const AttendShape& shape, int64_t tokens, Scratch& scratch) {
  constexpr int64_t kMostScores = int64_t{1} << 27;
  AttendMemory m;
  m.tokens = std::min(tokens, std::max<int64_t>(1, kMostScores / (shape.heads * shape.slots)));
  m.slots = shape.slots;
  m.tiles = shape.most_tiles();
  m.p = scratch.take<float>(m.tokens * shape.heads * m.slots);
  m.before = scratch.take<float>(m.tokens * shape.heads * m.tiles);
  m.own = scratch.take<float>(m.tokens * shape.heads * m.tiles);
  m.denominator = scratch.take<float>(m.tokens * shape.heads);
  return m;
}

// exp(score - largest); -infinity weighs nothing, beside a largest of -infinity too.
FULGURITE_HOST_DEVICE inline float softmax_weight(float score, float largest) {
  if (score == -std::numeric_limits<float>::infinity()) return 0.0f;
  return static_cast<float>(std::exp(static_cast<double>(score - largest)));
}

// Index: a token of the part, a head, a slot.
template <class Case>
struct Scores {
  Case on;
  AttendShape shape;
  AttendMemory m;
  int64_t first;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t j = index % m.slots, h = index / m.slots % shape.heads, t = index / m.slots / shape.heads;
    if (j < on.count(first + t)) m.p[index] = on.score(first + t, h, j);
  }
};

// Index: a token of the part and a head.
template <class Case>
struct Weights {
  Case on;
  AttendShape shape;
  AttendMemory m;
  int64_t first;

  // Of a tile, against `largest`: p in the place of the scores; returns the denominator.
  FULGURITE_HOST_DEVICE float weigh(float* p, int64_t count, float largest) const {
    double denominator = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      const float e = softmax_weight(p[j], largest);
      p[j] = shape.numerics.softmax_p == SoftmaxP::kBf16 ? round_to_bf16(e) : e;
      denominator += shape.numerics.softmax_denominator == SoftmaxDenominator::kRounded ? p[j] : e;
    }
    return static_cast<float>(denominator);
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t count = on.count(first + index / shape.heads);
    const bool running = shape.numerics.softmax_merge == SoftmaxMerge::kRunning;
    float* const p = m.p + index * m.slots;
    float all = -std::numeric_limits<float>::infinity(), denominator = 0.0f;
    for (int64_t begin = 0, tile = index * m.tiles; begin < count; begin += shape.tile(count), ++tile) {
      const int64_t size = std::min(shape.tile(count), count - begin);
      float largest = running ? all : -std::numeric_limits<float>::infinity();
      for (int64_t j = begin; j < begin + size; ++j) largest = p[j] > largest ? p[j] : largest;
      const float of_tile = weigh(p + begin, size, largest);
      const float merged = largest > all ? largest : all;
      m.before[tile] = softmax_weight(all, merged);
      m.own[tile] = largest == merged ? 1.0f : softmax_weight(largest, merged);
      denominator = std::fma(denominator, m.before[tile], of_tile * m.own[tile]);
      all = merged;
    }
    m.denominator[index] = denominator + softmax_weight(on.sink(index % shape.heads), all);
  }
};

// Index: a token of the part, a head, a column.
template <class Case>
struct Sums {
  Case on;
  AttendShape shape;
  AttendMemory m;
  int64_t first;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t c = index % shape.columns, row = index / shape.columns;
    const int64_t h = row % shape.heads, t = first + row / shape.heads, count = on.count(t);
    const float* const p = m.p + row * m.slots;
    float all = 0.0f;
    for (int64_t begin = 0, tile = row * m.tiles; begin < count; begin += shape.tile(count), ++tile) {
      double sum = 0.0;
      for (int64_t j = begin; j < std::min(count, begin + shape.tile(count)); ++j)
        sum += static_cast<double>(p[j]) * static_cast<double>(on.value(t, h, j, c));
      all = all * m.before[tile] + static_cast<float>(sum) * m.own[tile];
    }
    on.store(t, h, c, all / m.denominator[row]);
  }
};

template <class Case>
void attend(const Lane& lane, const AttendShape& shape, const Case& on, int64_t tokens) {
  if (tokens == 0) return;
  Scratch scratch(lane);
  const AttendMemory m = attend_memory(shape, tokens, scratch);
  for (int64_t first = 0; first < tokens; first += m.tokens) {
    const int64_t rows = std::min(m.tokens, tokens - first) * shape.heads;
    for_each(lane, rows * m.slots, Scores<Case>{on, shape, m, first});
    for_each(lane, rows, Weights<Case>{on, shape, m, first});
    for_each(lane, rows * shape.columns, Sums<Case>{on, shape, m, first});
  }
}

}  // namespace fulgurite::cuda
