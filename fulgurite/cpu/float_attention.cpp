// Four heads of a token read its keys together, once for the scores and once for the output.

#include "fulgurite/cpu/float_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/core/bf16.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/softmax.h"
#include "fulgurite/cpu/workspace.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kGroup = 4;  // heads; as many as the kernels' largest register tile has rows
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Scratch {
  float* queries;  // [kGroup, width]
  float* scores;   // [kGroup, most_keys]: scores, then weights
  float* sums;     // [kGroup, columns]
  float* tile;     // [kGroup, columns]
  FloatTokens::Buffers buffers;
};

Scratch cut_scratch(const FloatAttention& shape, Cutter& cutter) {
  return {cutter.take<float>(kGroup * shape.width),
          cutter.take<float>(kGroup * shape.most_keys),
          cutter.take<float>(kGroup * shape.columns),
          cutter.take<float>(kGroup * shape.columns),
          {cutter.take<float>(shape.in_place ? 0 : kWidenedRows * shape.width),
           cutter.take<int32_t>(shape.in_place ? 0 : kWidenedRows)}};
}

int64_t bytes_per_thread(const FloatAttention& shape) {
  Cutter cutter(nullptr);
  cut_scratch(shape, cutter);
  return cutter.bytes();
}

// exp(x - largest); -infinity weighs nothing, beside a largest of -infinity too.
float weight(float x, float largest) { return x == -kInfinity ? 0.0f : exp_not_positive(x - largest); }

// Heads [first_head, first_head + heads) of token t.
struct Group {
  const FloatAttention& shape;
  const FloatTokens& tokens;
  const Kernels& kernels;
  const Scratch& scratch;
  int64_t t, first_head, heads;
  TokenKeys keys;

  // Calls body(rows, first) for parts of keys [begin, end).
  template <class Body>
  void for_each_part(FloatTokens::Use use, int64_t begin, int64_t end, const Body& body) const {
    for (int64_t first = begin; first < end;) {
      const Rows rows = tokens.rows(t, use, first, end - first, scratch.buffers);
      body(rows, first);
      first += rows.count;
    }
  }

  void score() const {
    for (int64_t a = 0; a < heads; ++a)
      tokens.read_query(t, first_head + a, scratch.queries + a * shape.width);
    for_each_part(FloatTokens::Use::kKeys, 0, keys.count, [&](const Rows& rows, int64_t first) {
      kernels.dot_rows({scratch.queries, shape.width, heads}, rows, shape.width, scratch.scores + first,
                       keys.count);
    });
    for (int64_t j = 0; j < heads * keys.count; ++j) scratch.scores[j] *= shape.scale;
  }

  // Scores p[0, n) to weights relative to `largest`; returns what they add to the denominator.
  float weigh(float* p, int64_t n, float largest) const {
    float sum = 0.0f;
    for (; n > 0; --n, ++p) {
      const float e = weight(*p, largest);
      *p = shape.rounded_weights ? round_to_bf16(e) : e;
      sum += shape.rounded_denominator ? *p : e;
    }
    return sum;
  }

  // The running softmax of one head.
  struct Running {
    EndedSoftmax so_far{-kInfinity, 0.0f};
    float rescale = 0.0f;
  };
  void advance(Running& head, float* p, int64_t n) const {
    const float before = head.so_far.largest;
    float& largest = head.so_far.largest;
    for (int64_t j = 0; j < n; ++j) largest = p[j] > largest ? p[j] : largest;
    if (n == keys.count && !shape.rounded_weights && largest > -kInfinity) {
      head.so_far.denominator = softmax(p, n);
      return;
    }
    head.rescale = weight(before, largest);
    head.so_far.denominator = std::fma(head.so_far.denominator, head.rescale, weigh(p, n, largest));
  }

  // sums = sums * rescale + the weighted rows of keys [begin, end)
  void add(const Running* running, int64_t begin, int64_t end) const {
    const int64_t columns = shape.columns;
    for (int64_t a = 0; a < heads; ++a)
      kernels.multiply(scratch.sums + a * columns, running[a].rescale, columns);
    for_each_part(FloatTokens::Use::kValues, begin, end, [&](const Rows& rows, int64_t first) {
      kernels.combine_rows(scratch.scores + first, keys.count, 1, heads, rows, columns, scratch.tile,
                           columns);
      kernels.add(scratch.sums, scratch.tile, heads * columns, scratch.sums);
    });
  }

  void attend() const {
    score();
    const Tiles tiles(keys, shape.tile > 0 ? shape.tile : keys.count + keys.gap);
    Running running[kGroup];
    std::fill_n(scratch.sums, heads * shape.columns, 0.0f);
    for (int64_t tile = 0; tile < tiles.count(); ++tile) {
      const int64_t begin = tiles.begin(tile), end = tiles.end(tile);
      for (int64_t a = 0; a < heads; ++a)
        advance(running[a], scratch.scores + a * keys.count + begin, end - begin);
      add(running, begin, end);
    }
    for (int64_t a = 0; a < heads; ++a)
      tokens.finish(t, first_head + a, running[a].so_far, scratch.sums + a * shape.columns);
  }
};

}  // namespace

int64_t workspace_bytes(const FloatAttention& shape, int threads) {
  return threads * bytes_per_thread(shape);
}

void attend(const FloatAttention& shape, const FloatTokens& tokens, int64_t count, const Lane& lane) {
  const int64_t groups = (shape.heads + kGroup - 1) / kGroup;
  const Kernels& loops = kernels(shape.isa);
  parallel_for(lane, count * groups, [&](int64_t begin, int64_t end, int thread) {
    Cutter cutter(lane.workspace.data() + thread * bytes_per_thread(shape));
    const Scratch scratch = cut_scratch(shape, cutter);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t t = i / groups, first = i % groups * kGroup;
      Group{shape, tokens, loops, scratch, t, first, std::min(kGroup, shape.heads - first), tokens.keys(t)}
          .attend();
    }
  });
}

}  // namespace fulgurite::cpu
