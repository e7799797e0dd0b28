// Each selected row is decoded once for all heads of its token, a tile of the list at a time: as a bf16 row
// for the scores, which have heads as lanes, and in pairs of two keys for the weighted sum, which has columns
// as lanes. Either way bf16 pairs are multiplied and added in fp32, in the order of the list.
//
// Many tokens: a thread has whole tokens, one tile at a time, all of it in its second-level cache. Few tokens
// of many heads: the threads split the heads, and each decodes all rows: that costs less than to wait for each
// other and to read what another core wrote. Few tokens of few heads: the threads share one token, more tiles
// at a time; they split tiles twice (the weights need the largest scores of all tiles before), then columns.
// Every number is made by the same steps from the same numbers, so the bits are the same.

#include <algorithm>
#include <limits>

#include "fulgurite/cpu/kernels.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kOwnKeys = 256;      // held at once of a token that a thread has alone
constexpr int64_t kSharedKeys = 2048;  // of one that all threads share: each round has three barriers
constexpr int64_t kPiece = 24;         // keys that are scored while so many of the next tile are asked for
constexpr int64_t kCacheLine = 64;
constexpr int64_t kWorthSharing = 4'000'000;  // products of a token: some 30 us, against four barriers

// Operands are bf16 as they come: q is an activation, and a code times a power of two has few bits. So
// qk_operands changes nothing, but of an fp16 q: that is rounded, where the knob says so.
Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support operands;
  if (numerics.activation == Activation::kFp16) operands = takes(numerics.qk_operands, {QkOperands::kBf16});
  return first_refusal({takes(numerics.activation, {Activation::kBf16, Activation::kFp16}), operands,
                        takes(numerics.mla, {Mla::kAbsorbed}),
                        takes(numerics.latent_cache, {LatentCache::kBf16, LatentCache::kFp8}),
                        takes(numerics.softmax_tile, {SoftmaxTile::k64, SoftmaxTile::k128}),
                        takes(numerics.softmax_merge, {SoftmaxMerge::kRunning}),
                        takes(numerics.softmax_p, {SoftmaxP::kBf16}), takes(numerics.mma, {Mma::kExact})});
}

int64_t up_to_whole(int64_t count, int64_t part) { return (count + part - 1) / part * part; }

struct Layout {
  int64_t tile;          // keys
  int64_t latent_pairs;  // of a key; the rotated part begins at a whole pair
  int64_t pairs;         // of a key
  int64_t lanes;         // heads, in whole panels
  int64_t columns;       // latent, in whole panels
  int64_t stride;        // of rows of columns: not a power of two, whose rows would share few sets of a cache
};

Layout layout_of(const Problem& problem, int64_t heads) {
  const int64_t latent_pairs = (problem.latent + 1) / 2, columns = up_to_whole(problem.latent, kLanes);
  return {problem.setting.numerics.softmax_tile == SoftmaxTile::k64 ? 64 : 128,
          latent_pairs,
          latent_pairs + (problem.rope + 1) / 2,
          up_to_whole(heads, kLanes),
          columns,
          columns + kLanes};
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

Memory cut_memory(const Problem& problem, int64_t slots, int64_t threads, cpu::Cutter& cutter) {
  const Layout l = layout_of(problem, problem.heads);
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
          cutter.take<float>(problem.heads * l.stride),
          cutter.take<uint16_t>(threads * l.tile * 2 * l.pairs)};
}

int64_t bytes_of(const Problem& problem, int64_t slots, int64_t threads) {
  cpu::Cutter cutter(nullptr);
  cut_memory(problem, slots, threads, cutter);
  return cutter.bytes();
}

int64_t slots_of(const Problem& problem, int64_t most_keys) {
  const int64_t tile = layout_of(problem, problem.heads).tile;
  return std::min(most_keys / tile, (problem.topk + tile - 1) / tile);
}

// Has each thread heads enough to take some of a token alone?
bool splits_heads(const Problem& problem, int threads) {
  return (problem.heads + kLanes - 1) / kLanes >= threads;
}

// Fewer tokens of few heads than threads are all shared, and need no memory for each thread to work alone.
int64_t workspace_bytes(const Problem& problem, int threads) {
  const bool few = problem.largest_batch > 0 && problem.largest_batch < threads;
  const bool all_shared = few && !splits_heads(problem, threads);
  const int64_t alone = (all_shared ? 1 : threads) * bytes_of(problem, slots_of(problem, kOwnKeys), 1);
  return threads == 1 ? alone : std::max(alone, bytes_of(problem, slots_of(problem, kSharedKeys), threads));
}

// Heads of a token that are attended together.
struct Heads {
  int64_t first;
  int64_t count;
};

class Token {
 public:
  Token(const Problem& problem, const Args& args, int64_t t, Heads heads, const Memory& memory)
      : problem_(problem),
        args_(args),
        heads_(heads),
        l_(layout_of(problem, heads.count)),
        memory_(memory),
        kernels_(cpu::kernels(problem.setting.target.isa)),
        t_(t),
        count_(selected_rows(args.selected[t])),
        tiles_((count_ + l_.tile - 1) / l_.tile) {}

  void attend(const Lane& lane, int64_t slots) {
    cpu::parallel_for(lane, l_.lanes / kLanes, [&](int64_t begin, int64_t end, int) {
      for (int64_t panel = begin; panel < end; ++panel) pack_queries(panel);
    });
    for (first_ = 0; first_ < tiles_; first_ += slots) {
      held_ = std::min(slots, tiles_ - first_);
      cpu::parallel_for(lane, held_, [&](int64_t begin, int64_t end, int thread) {
        if (first_ == 0) ask_for(begin, 0, l_.tile);
        for (int64_t slot = begin; slot < end; ++slot)
          score(slot, slot + 1 < end ? slot + 1 : begin + held_, thread);
      });
      accumulate_largest();
      cpu::parallel_for(lane, held_ * l_.lanes / kLanes, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) weigh(i / (l_.lanes / kLanes), i % (l_.lanes / kLanes));
      });
      accumulate_denominators();
      cpu::parallel_for(lane, l_.columns / kLanes,
                        [&](int64_t begin, int64_t end, int) { add(begin, end - begin); });
    }
  }

 private:
  // Entries of a slot's tile; none or fewer beyond the last tile.
  int64_t keys(int64_t slot) const { return std::min(l_.tile, count_ - (first_ + slot) * l_.tile); }
  const std::byte* row(int64_t slot, int64_t j) const {
    const int64_t position = args_.selected(t_, (first_ + slot) * l_.tile + j);
    return args_.cache.rows[args_.places(t_).sequence][position].data;
  }

  // Heads [16 * panel, ...) as lanes; the running softmax begins.
  void pack_queries(int64_t panel) {
    const int64_t h = panel * kLanes, heads = std::min(kLanes, heads_.count - h);
    uint32_t* const to = memory_.queries + panel * l_.pairs * kLanes;
    pack(args_.q[t_].slice(0, heads_.first + h, heads), to);
    pack(args_.q_rope[t_].slice(0, heads_.first + h, heads), to + l_.latent_pairs * kLanes);
    std::fill_n(memory_.so_far + h, kLanes, -std::numeric_limits<float>::infinity());
    std::fill_n(memory_.denominator + h, kLanes, 0.0f);
  }
  void pack(const ConstTensor<2>& rows, uint32_t* panel) const {
    if (rows.dtype == DType::kF16) return pack_rounded(rows, panel);
    kernels_.pack_bf16(reinterpret_cast<const uint16_t*>(rows.data), rows.stride[0], rows.extent[0],
                       rows.extent[1], panel);
  }
  void pack_rounded(const ConstTensor<2>& rows, uint32_t* panel) const {
    constexpr int64_t kColumns = 128;
    uint16_t narrow[kLanes * kColumns];
    float wide[kColumns];
    for (int64_t first = 0; first < rows.extent[1]; first += kColumns, panel += kColumns / 2 * kLanes) {
      const int64_t count = std::min(kColumns, rows.extent[1] - first);
      for (int64_t l = 0; l < rows.extent[0]; ++l)
        kernels_.narrow_bf16(cpu::as_floats(kernels_, rows[l], first, count, wide), count,
                             narrow + l * kColumns);
      kernels_.pack_bf16(narrow, kColumns, rows.extent[0], count, panel);
    }
  }

  // Two rows' values as bf16, each part padded with a zero to whole pairs, and in pairs of the two.
  void decode(const std::byte* first, const std::byte* second, uint16_t* to, uint32_t* pairs) const {
    const LatentRow& form = args_.cache.row;
    uint16_t* const second_to = to + 2 * l_.pairs;
    pad(first, to);
    pad(second, second_to);
    if (form.form == LatentCache::kFp8) {
      kernels_.widen_two(scaled_codes(first), scaled_codes(second), problem_.latent, to, second_to, pairs);
    } else {
      std::copy_n(reinterpret_cast<const uint16_t*>(first), problem_.latent, to);
      std::copy_n(reinterpret_cast<const uint16_t*>(second), problem_.latent, second_to);
      kernels_.interleave(to, second_to, problem_.latent, pairs);
    }
    std::fill(pairs + problem_.latent, pairs + l_.columns, 0u);
  }
  // All but the latent values.
  void pad(const std::byte* row, uint16_t* to) const {
    to[2 * l_.latent_pairs - 1] = to[2 * l_.pairs - 1] = 0;
    std::copy_n(reinterpret_cast<const uint16_t*>(row + args_.cache.row.rope_offset()), problem_.rope,
                to + 2 * l_.latent_pairs);
  }
  cpu::ScaledCodes scaled_codes(const std::byte* row) const {
    const auto* const codes = reinterpret_cast<const uint8_t*>(row);
    return {codes, codes + args_.cache.row.scales_offset()};
  }

  // An odd last key meets one of zeros.
  void read_tile(int64_t slot, uint16_t* tile_keys) {
    const int64_t width = 2 * l_.pairs, count = keys(slot);
    for (int64_t j = 0; j < count; j += 2) {
      uint16_t* const to = tile_keys + j * width;
      uint32_t* const pairs = memory_.values + (slot * l_.tile + j) / 2 * l_.stride;
      decode(row(slot, j), row(slot, std::min(j + 1, count - 1)), to, pairs);
      if (j + 1 < count) continue;
      std::fill_n(to + width, width, uint16_t{0});
      kernels_.interleave(to, to + width, problem_.latent, pairs);
    }
  }

  // Inlined always: GCC takes a function that only prefetches for one without effects, and drops its calls.
  __attribute__((always_inline)) void ask_for(int64_t slot, int64_t first, int64_t last) const {
    for (int64_t j = first; j < std::min(last, keys(slot)); ++j)
      for (int64_t byte = 0; byte < args_.cache.row.bytes(); byte += kCacheLine)
        __builtin_prefetch(row(slot, j) + byte, 0, 2);
  }

  // The rows of the tile that the thread has next are asked for meanwhile.
  void score(int64_t slot, int64_t next, int thread) {
    const int64_t width = 2 * l_.pairs;
    uint16_t* const tile_keys = memory_.keys + thread * l_.tile * width;
    read_tile(slot, tile_keys);
    const cpu::Panels queries{memory_.queries, l_.pairs * kLanes, kLanes, l_.lanes / kLanes};
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

  cpu::ScoreTile score_tile(int64_t slot, int64_t panel) const {
    const bool rounded = problem_.setting.numerics.softmax_denominator == SoftmaxDenominator::kRounded;
    const int64_t h = panel * kLanes;
    return {memory_.scores + slot * l_.tile * l_.lanes + h, l_.lanes, keys(slot), problem_.scale, rounded,
            memory_.p + slot * l_.tile / 2 * l_.lanes + h,  l_.lanes};
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
        {memory_.sums + column, l_.stride, first_ == 0 ? cpu::Ending::kStore : cpu::Ending::kAccumulate});
    if (first_ + held_ == tiles_) finish(column, std::min(panels * kLanes, problem_.latent - column));
  }

  void finish(int64_t column, int64_t count) {
    for (int64_t h = 0; h < heads_.count; ++h) {
      float* const sums = memory_.sums + h * l_.stride + column;
      const Tensor<1> out = args_.out[t_][heads_.first + h];
      auto* const to = reinterpret_cast<uint16_t*>(out.data) + column;
      if (out.dtype == DType::kBF16) {
        kernels_.divide_to_bf16(sums, memory_.denominator[h], count, to);
      } else {
        for (int64_t i = 0; i < count; ++i) sums[i] = sums[i] / memory_.denominator[h];
        kernels_.narrow_fp16(sums, count, to);
      }
    }
  }

  const Problem& problem_;
  const Args& args_;
  const Heads heads_;
  const Layout l_;
  const Memory memory_;
  const cpu::Kernels& kernels_;
  const int64_t t_;
  const int64_t count_;  // of selected rows
  const int64_t tiles_;
  int64_t first_ = 0;  // tile in slot 0
  int64_t held_ = 0;   // slots in use
};

// What threads do alone, each in memory of its own.
class Alone {
 public:
  Alone(const Problem& problem, const Args& args, const Lane& lane)
      : problem_(problem),
        args_(args),
        lane_(lane),
        slots_(slots_of(problem, kOwnKeys)),
        bytes_(bytes_of(problem, slots_, 1)) {}

  void attend_tokens(int64_t tokens) const {
    cpu::parallel_for(lane_, tokens, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t t = begin; t < end; ++t) attend(t, {0, problem_.heads}, thread);
    });
  }
  void attend_heads(int64_t t, const Lane& lane) const {
    const int64_t panels = (problem_.heads + kLanes - 1) / kLanes;
    cpu::parallel_for(lane, panels, [&](int64_t begin, int64_t end, int thread) {
      const int64_t first = begin * kLanes;
      attend(t, {first, std::min(problem_.heads, end * kLanes) - first}, thread);
    });
  }

 private:
  void attend(int64_t t, Heads heads, int thread) const {
    cpu::Cutter cutter(lane_.workspace.data() + thread * bytes_);
    const Memory memory = cut_memory(problem_, slots_, 1, cutter);
    Token(problem_, args_, t, heads, memory).attend(Lane{}, slots_);
  }

  const Problem& problem_;
  const Args& args_;
  const Lane& lane_;
  const int64_t slots_;
  const int64_t bytes_;
};

void run(const Problem& problem, const Args& args, const Lane& whole) {
  check(problem, args);
  const int64_t tokens = args.q.extent[0], columns = 2 * problem.latent + problem.rope;
  const Lane lane = cpu::worth_splitting(whole, tokens * problem.heads * problem.topk * columns);
  const int64_t alone = tokens / lane.threads * lane.threads;
  const Alone threads(problem, args, lane);
  const bool shares = problem.heads * problem.topk * columns >= kWorthSharing;
  threads.attend_tokens(alone);
  for (int64_t t = alone; t < tokens; ++t) {
    if (splits_heads(problem, lane.threads) || !shares) {
      threads.attend_heads(t, shares ? lane : Lane{1, nullptr, lane.workspace});
      continue;
    }
    const int64_t slots = slots_of(problem, kSharedKeys);
    cpu::Cutter cutter(lane.workspace.data());
    const Memory memory = cut_memory(problem, slots, lane.threads, cutter);
    Token(problem, args, t, {0, problem.heads}, memory).attend(lane, slots);
  }
}

}  // namespace

const Implementation kCpuPairs{"cpu_pairs", supports, workspace_bytes, run};

}  // namespace fulgurite::sparse_attention
