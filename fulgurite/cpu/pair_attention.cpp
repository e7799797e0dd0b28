// Each key is decoded once for all heads of its token, a tile at a time: as a bf16 row for the scores, which
// have heads as lanes, and in pairs of two keys for the weighted sum, which has columns as lanes. Either way
// bf16 pairs are multiplied and added in fp32, in the order of the keys.
//
// Many tokens: a thread has whole tokens, one tile at a time, all of it in its second-level cache. Few tokens
// of many heads: the threads split the heads, and each decodes all keys: that costs less than to wait for each
// other and to read what another core wrote. Few tokens of few heads: the threads share one token, more tiles
// at a time; they split tiles twice (the weights need the largest scores of all tiles before), then columns.
// Every number is made by the same steps from the same numbers, so the bits are the same.

#include "fulgurite/cpu/pair_attention.h"

#include <algorithm>
#include <limits>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kOwnKeys = 256;      // held at once of a token that a thread has alone
constexpr int64_t kSharedKeys = 2048;  // of one that all threads share: each round has three barriers
constexpr int64_t kPiece = 24;         // keys that are scored while so many of the next tile are asked for
constexpr int64_t kCacheLine = 64;
constexpr int64_t kWorthSharing = 4'000'000;  // products of a token: some 30 us, against four barriers

int64_t up_to_whole(int64_t count, int64_t part) { return (count + part - 1) / part * part; }

struct Layout {
  int64_t tile;     // slots
  int64_t pairs;    // of a key
  int64_t lanes;    // heads, in whole panels
  int64_t columns;  // in whole panels
  int64_t stride;   // of rows of columns: not a power of two, whose rows would share few sets of a cache
};

Layout layout_of(const PairAttention& shape, int64_t heads) {
  const int64_t columns = up_to_whole(shape.columns, kLanes);
  return {shape.tile, shape.key_pairs, up_to_whole(heads, kLanes), columns, columns + kLanes};
}

// What is known of one token. Slots hold the tiles that are worked on at once.
struct Memory {
  uint32_t* queries;        // [lanes / 16][pairs][16]
  uint32_t* values;         // [slots][tile / 2][stride]
  float* scores;            // [slots][tile][lanes]
  uint32_t* p;              // [slots][tile / 2][lanes]
  float* tile_largest;      // [slots][lanes]  of a tile's scores alone
  float* largest;           // [slots][lanes]  before a tile, then with it
  float* rescale;           // [slots][lanes]
  float* tile_denominator;  // [slots][lanes]
  float* so_far;            // [lanes]  the largest score
  float* denominator;       // [lanes]
  float* sums;              // [heads][stride]
  uint16_t* keys;           // [threads][tile][2 * pairs]
};

Memory cut_memory(const PairAttention& shape, int64_t slots, int64_t threads, Cutter& cutter) {
  const Layout l = layout_of(shape, shape.heads);
  return {cutter.take<uint32_t>(l.lanes * l.pairs),
          cutter.take<uint32_t>(slots * l.tile / 2 * l.stride),
          cutter.take<float>(slots * l.tile * l.lanes),
          cutter.take<uint32_t>(slots * l.tile / 2 * l.lanes),
          cutter.take<float>(slots * l.lanes),
          cutter.take<float>(slots * l.lanes),
          cutter.take<float>(slots * l.lanes),
          cutter.take<float>(slots * l.lanes),
          cutter.take<float>(l.lanes),
          cutter.take<float>(l.lanes),
          cutter.take<float>(shape.heads * l.stride),
          cutter.take<uint16_t>(threads * l.tile * 2 * l.pairs)};
}

int64_t bytes_of(const PairAttention& shape, int64_t slots, int64_t threads) {
  Cutter cutter(nullptr);
  cut_memory(shape, slots, threads, cutter);
  return cutter.bytes();
}

int64_t slots_of(const PairAttention& shape, int64_t most_keys) {
  return std::min(most_keys / shape.tile, (shape.most_slots + shape.tile - 1) / shape.tile);
}

// Has each thread heads enough to take some of a token alone?
bool splits_heads(const PairAttention& shape, int threads) {
  return (shape.heads + kLanes - 1) / kLanes >= threads;
}

// Heads of a token that are attended together.
struct Heads {
  int64_t first;
  int64_t count;
};

class Token {
 public:
  Token(const PairAttention& shape, const PairTokens& tokens, int64_t t, Heads heads, const Memory& memory)
      : shape_(shape),
        tokens_(tokens),
        heads_(heads),
        l_(layout_of(shape, heads.count)),
        memory_(memory),
        kernels_(kernels(shape.isa)),
        t_(t),
        tiles_(tokens.keys(t), shape.tile),
        count_(tiles_.count()) {}

  void attend(const Lane& lane, int64_t slots) {
    parallel_for(lane, l_.lanes / kLanes, [&](int64_t begin, int64_t end, int) {
      for (int64_t panel = begin; panel < end; ++panel) pack_queries(panel);
    });
    for (first_ = 0; first_ < count_; first_ += slots) {
      held_ = std::min(slots, count_ - first_);
      parallel_for(lane, held_, [&](int64_t begin, int64_t end, int thread) {
        if (first_ == 0) ask_for(begin, 0, l_.tile);
        for (int64_t slot = begin; slot < end; ++slot)
          score(slot, slot + 1 < end ? slot + 1 : begin + held_, thread);
      });
      accumulate_largest();
      parallel_for(lane, held_ * l_.lanes / kLanes, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) weigh(i / (l_.lanes / kLanes), i % (l_.lanes / kLanes));
      });
      accumulate_denominators();
      parallel_for(lane, l_.columns / kLanes,
                   [&](int64_t begin, int64_t end, int) { add(begin, end - begin); });
    }
  }

 private:
  // Of the tile in a slot; none beyond the last tile.
  int64_t keys(int64_t slot) const { return first_ + slot < count_ ? tiles_.keys(first_ + slot) : 0; }
  int64_t key(int64_t slot, int64_t j) const { return tiles_.begin(first_ + slot) + j; }

  // Heads [16 * panel, ...) as lanes; the running softmax begins.
  void pack_queries(int64_t panel) {
    const int64_t h = panel * kLanes, heads = std::min(kLanes, heads_.count - h);
    tokens_.pack_queries(t_, heads_.first + h, heads, memory_.queries + panel * l_.pairs * kLanes);
    std::fill_n(memory_.so_far + h, kLanes, -std::numeric_limits<float>::infinity());
    std::fill_n(memory_.denominator + h, kLanes, 0.0f);
  }

  // An odd last key meets one of zeros. A tile that is not full, before another, ends in pairs of zeros.
  void read_tile(int64_t slot, uint16_t* tile_keys) {
    const int64_t width = 2 * l_.pairs, count = keys(slot), first = key(slot, 0);
    for (int64_t j = 0; j < count; j += 2) {
      uint16_t* const to = tile_keys + j * width;
      uint32_t* const pairs = pairs_of(slot, j);
      tokens_.read_two(t_, first + j, first + std::min(j + 1, count - 1), {to, to + width, pairs});
      std::fill(pairs + shape_.columns, pairs + l_.columns, 0u);
      if (j + 1 < count) continue;
      for (int64_t c = 0; c < shape_.columns; ++c) pairs[c] &= 0xFFFFu;
    }
    for (int64_t j = (count + 1) / 2 * 2; slot + 1 < held_ && j < l_.tile; j += 2)
      std::fill_n(pairs_of(slot, j), l_.columns, 0u);
  }
  uint32_t* pairs_of(int64_t slot, int64_t j) const {
    return memory_.values + (slot * l_.tile + j) / 2 * l_.stride;
  }

  // Inlined always: GCC takes a function that only prefetches for one without effects, and drops its calls.
  __attribute__((always_inline)) void ask_for(int64_t slot, int64_t first, int64_t last) const {
    const int64_t begin = key(slot, 0), end = std::min(last, keys(slot));
    for (int64_t j = first; j < end; ++j) {
      const std::byte* const row = tokens_.row(t_, begin + j);
      for (int64_t byte = 0; byte < shape_.row_bytes; byte += kCacheLine)
        __builtin_prefetch(row + byte, 0, 2);
    }
  }

  // The rows of the tile that the thread has next are asked for meanwhile.
  void score(int64_t slot, int64_t next, int thread) {
    const int64_t width = 2 * l_.pairs;
    uint16_t* const tile_keys = memory_.keys + thread * l_.tile * width;
    read_tile(slot, tile_keys);
    const Panels queries{memory_.queries, l_.pairs * kLanes, kLanes, l_.lanes / kLanes, heads_.count};
    for (int64_t j = 0; j < keys(slot); j += kPiece) {
      ask_for(next, j, j + kPiece);
      kernels_.products({tile_keys + j * width, width, 2, std::min(kPiece, keys(slot) - j)}, l_.pairs,
                        queries, {memory_.scores + (slot * l_.tile + j) * l_.lanes, l_.lanes});
    }
    float* const largest = memory_.tile_largest + slot * l_.lanes;
    std::fill_n(largest, l_.lanes, -std::numeric_limits<float>::infinity());
    for (int64_t panel = 0; panel < l_.lanes / kLanes; ++panel)
      kernels_.largest_scores(score_tile(slot, panel), largest + panel * kLanes);
  }

  ScoreTile score_tile(int64_t slot, int64_t panel) const {
    const int64_t h = panel * kLanes;
    return {memory_.scores + slot * l_.tile * l_.lanes + h,
            l_.lanes,
            keys(slot),
            shape_.scale,
            shape_.rounded_denominator,
            memory_.p + slot * l_.tile / 2 * l_.lanes + h,
            l_.lanes};
  }

  // What is the largest score before each of the tiles. A NaN is none.
  void accumulate_largest() {
    for (int64_t slot = 0; slot < held_; ++slot) {
      const float* const of_tile = memory_.tile_largest + slot * l_.lanes;
      std::copy_n(memory_.so_far, l_.lanes, memory_.largest + slot * l_.lanes);
      for (int64_t l = 0; l < l_.lanes; ++l)
        memory_.so_far[l] = of_tile[l] > memory_.so_far[l] ? of_tile[l] : memory_.so_far[l];
    }
  }

  // The tile's own sum, from 0: how it is to be rescaled is known only now.
  void weigh(int64_t slot, int64_t panel) {
    const int64_t at = slot * l_.lanes + panel * kLanes;
    std::fill_n(memory_.tile_denominator + at, kLanes, 0.0f);
    kernels_.softmax_tile(score_tile(slot, panel),
                          {memory_.largest + at, memory_.tile_denominator + at, memory_.rescale + at});
    for (int64_t j = (keys(slot) + 1) / 2; slot + 1 < held_ && j < l_.tile / 2; ++j)
      std::fill_n(memory_.p + (slot * l_.tile / 2 + j) * l_.lanes + panel * kLanes, kLanes, 0u);
  }

  void accumulate_denominators() {
    for (int64_t slot = 0; slot < held_; ++slot)
      kernels_.multiply_add(memory_.rescale + slot * l_.lanes, memory_.tile_denominator + slot * l_.lanes,
                            l_.lanes, memory_.denominator);
  }

  // Columns [16 * panel, ...) of all heads.
  void add(int64_t panel, int64_t panels) {
    const int64_t column = panel * kLanes, keys_held = (held_ - 1) * l_.tile + keys(held_ - 1);
    kernels_.rescaled_products(
        {reinterpret_cast<const uint16_t*>(memory_.p), 2, 2 * l_.lanes, heads_.count}, (keys_held + 1) / 2,
        l_.tile / 2, memory_.rescale, l_.lanes, {memory_.values + column, kLanes, l_.stride, panels},
        {memory_.sums + column, l_.stride, first_ == 0 ? Ending::kStore : Ending::kAccumulate});
    if (first_ + held_ == count_) finish(column, std::min(panels * kLanes, shape_.columns - column));
  }

  void finish(int64_t column, int64_t count) {
    for (int64_t h = 0; h < heads_.count; ++h)
      tokens_.finish(t_, heads_.first + h, {memory_.so_far[h], memory_.denominator[h]}, column, count,
                     memory_.sums + h * l_.stride + column);
  }

  const PairAttention& shape_;
  const PairTokens& tokens_;
  const Heads heads_;
  const Layout l_;
  const Memory memory_;
  const Kernels& kernels_;
  const int64_t t_;
  const Tiles tiles_;
  const int64_t count_;  // of tiles
  int64_t first_ = 0;    // tile in slot 0
  int64_t held_ = 0;     // slots in use
};

// What threads do alone, each in memory of its own.
class Alone {
 public:
  Alone(const PairAttention& shape, const PairTokens& tokens, const Lane& lane)
      : shape_(shape),
        tokens_(tokens),
        lane_(lane),
        slots_(slots_of(shape, kOwnKeys)),
        bytes_(bytes_of(shape, slots_, 1)) {}

  void attend_tokens(int64_t count) const {
    parallel_for(lane_, count, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t t = begin; t < end; ++t) attend(t, {0, shape_.heads}, thread);
    });
  }
  void attend_heads(int64_t t, const Lane& lane) const {
    const int64_t panels = (shape_.heads + kLanes - 1) / kLanes;
    parallel_for(lane, panels, [&](int64_t begin, int64_t end, int thread) {
      const int64_t first = begin * kLanes;
      attend(t, {first, std::min(shape_.heads, end * kLanes) - first}, thread);
    });
  }

 private:
  void attend(int64_t t, Heads heads, int thread) const {
    Cutter cutter(lane_.workspace.data() + thread * bytes_);
    const Memory memory = cut_memory(shape_, slots_, 1, cutter);
    Token(shape_, tokens_, t, heads, memory).attend(Lane{}, slots_);
  }

  const PairAttention& shape_;
  const PairTokens& tokens_;
  const Lane& lane_;
  const int64_t slots_;
  const int64_t bytes_;
};

void pack_rounded(const Kernels& kernels, const ConstTensor<2>& rows, uint32_t* panel) {
  constexpr int64_t kColumns = 128;
  uint16_t narrow[kLanes * kColumns];
  float wide[kColumns];
  for (int64_t first = 0; first < rows.extent[1]; first += kColumns, panel += kColumns / 2 * kLanes) {
    const int64_t count = std::min(kColumns, rows.extent[1] - first);
    for (int64_t l = 0; l < rows.extent[0]; ++l)
      kernels.narrow_bf16(as_floats(kernels, rows[l], first, count, wide), count, narrow + l * kColumns);
    kernels.pack_bf16(narrow, kColumns, rows.extent[0], count, panel);
  }
}

int64_t operations_of(const PairAttention& shape, int64_t keys) {
  return keys * shape.heads * (2 * shape.key_pairs + shape.columns);
}

}  // namespace

// Fewer tokens of few heads than threads are all shared, and need no memory for each thread to work alone.
int64_t workspace_bytes(const PairAttention& shape, int threads) {
  const bool few = shape.largest_batch > 0 && shape.largest_batch < threads;
  const bool all_shared = few && !splits_heads(shape, threads);
  const int64_t alone = (all_shared ? 1 : threads) * bytes_of(shape, slots_of(shape, kOwnKeys), 1);
  return threads == 1 ? alone : std::max(alone, bytes_of(shape, slots_of(shape, kSharedKeys), threads));
}

void attend(const PairAttention& shape, const PairTokens& tokens, int64_t count, const Lane& whole) {
  int64_t keys = 0;
  for (int64_t t = 0; t < count; ++t) keys += tokens.keys(t).count;
  const Lane lane = worth_splitting(whole, operations_of(shape, keys));
  const int64_t alone = count / lane.threads * lane.threads;
  const Alone threads(shape, tokens, lane);
  threads.attend_tokens(alone);
  for (int64_t t = alone; t < count; ++t) {
    const bool shares = operations_of(shape, tokens.keys(t).count) >= kWorthSharing;
    if (splits_heads(shape, lane.threads) || !shares) {
      threads.attend_heads(t, shares ? lane : Lane{1, nullptr, lane.workspace});
      continue;
    }
    const int64_t slots = slots_of(shape, kSharedKeys);
    Cutter cutter(lane.workspace.data());
    const Memory memory = cut_memory(shape, slots, lane.threads, cutter);
    Token(shape, tokens, t, {0, shape.heads}, memory).attend(lane, slots);
  }
}

void pack_query_rows(const Kernels& kernels, const ConstTensor<2>& rows, uint32_t* panel) {
  if (rows.dtype == DType::kF16) return pack_rounded(kernels, rows, panel);
  kernels.pack_bf16(reinterpret_cast<const uint16_t*>(rows.data), rows.stride[0], rows.extent[0],
                    rows.extent[1], panel);
}

void write_quotients(const Kernels& kernels, float* sums, float denominator, int64_t column, int64_t count,
                     const Tensor<1>& out) {
  if (out.dtype == DType::kBF16)
    return kernels.divide_to_bf16(sums, denominator, count, reinterpret_cast<uint16_t*>(out.data) + column);
  for (int64_t i = 0; i < count; ++i) sums[i] = sums[i] / denominator;
  write_floats(kernels, sums, column, count, out);
}

}  // namespace fulgurite::cpu
