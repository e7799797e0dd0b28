#include <cmath>
#include <limits>

#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kMostLogits = int64_t{1} << 26;  // at a time; a row of them at least

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Rows whose logits are held at a time, as keys that order them (rank_key).
struct Tile {
  int64_t rows = 0;
  int64_t context = 0;
  uint64_t* keys = nullptr;   // [rows, context]
  uint8_t* chosen = nullptr;  // [rows, context]
};

Tile tile_of(const Problem& problem, int64_t tokens, cuda::Scratch& scratch) {
  Tile tile{std::min(tokens, std::max<int64_t>(1, kMostLogits / problem.context)), problem.context};
  tile.keys = scratch.take<uint64_t>(tile.rows * tile.context);
  tile.chosen = scratch.take<uint8_t>(tile.rows * tile.context);
  return tile;
}

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  tile_of(problem, problem.largest_batch, scratch);
  return scratch.used();
}

template <class Byte, int Rank, class... Index>
FULGURITE_HOST_DEVICE float value_of(const AnyView<Byte, Rank>& tensor, Index... index) {
  if (tensor.dtype == DType::kF8_E4M3) return to_float(tensor.template as<e4m3>()(index...));
  return load(tensor, index...);
}

// Index: a row of the tile and a key.
struct Logits {
  Problem problem;
  Args args;
  Tile tile;
  int64_t first;  // token of the tile's first row

  FULGURITE_HOST_DEVICE float logit(int64_t t, int64_t sequence, int64_t s) const {
    const ConstTensor<1> key = args.key_cache.key(sequence, s);
    float sum = 0.0f;
    for (int64_t h = 0; h < problem.heads; ++h) {
      double dot = 0.0;
      for (int64_t d = 0; d < problem.head_dim; ++d)
        dot += static_cast<double>(value_of(args.q, t, h, d)) * static_cast<double>(value_of(key, d));
      const float product = static_cast<float>(dot);
      sum = std::fma(args.weights(t, h), product < 0.0f ? 0.0f : product, sum);  // max(0, NaN) is NaN
    }
    return args.key_cache.keys.dtype == DType::kF8_E4M3 ? args.key_cache.scale(sequence, s) * sum : sum;
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = first + index / tile.context, s = index % tile.context;
    const TokenPlace place = args.places(t);
    const bool sees = s < visible(problem, place.position);
    const float score = sees ? logit(t, place.sequence, s) : -std::numeric_limits<float>::infinity();
    tile.keys[index] = rank_key(score, static_cast<int32_t>(s), problem.setting.numerics.ties);
    if (args.scores) args.scores(t, s) = score;
  }
};

// Index: a row of the tile and a key. It is chosen where fewer than topk of the visible keys rank above it.
struct Choose {
  Problem problem;
  Args args;
  Tile tile;
  int64_t first;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / tile.context, s = index % tile.context;
    const int64_t count = visible(problem, args.places(first + row).position);
    const uint64_t* const keys = tile.keys + row * tile.context;
    int64_t above = 0;
    for (int64_t other = 0; other < count; ++other) above += keys[other] > keys[s] ? 1 : 0;
    tile.chosen[index] = s < count && above < problem.topk ? 1 : 0;
  }
};

// Index: a row of the tile. The chosen in ascending order, then -1.
struct List {
  Problem problem;
  Args args;
  Tile tile;
  int64_t first;

  FULGURITE_HOST_DEVICE void operator()(int64_t row) const {
    const int64_t t = first + row, count = visible(problem, args.places(t).position);
    int64_t j = 0;
    for (int64_t s = 0; s < count; ++s)
      if (tile.chosen[row * tile.context + s] != 0) args.selected(t, j++) = static_cast<int32_t>(s);
    while (j < problem.topk) args.selected(t, j++) = -1;
    for (j = 0; args.slots && j < problem.topk; ++j)
      args.slots(t, j) = slot_of(args.key_cache.pages, args.places(t).sequence, args.selected(t, j));
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.q.extent[0];
  cuda::Scratch scratch(lane);
  const Tile tile = tile_of(problem, tokens, scratch);
  for (int64_t first = 0; first < tokens; first += tile.rows) {
    const int64_t rows = std::min(tile.rows, tokens - first);
    cuda::for_each(lane, rows * tile.context, Logits{problem, args, tile, first});
    cuda::for_each(lane, rows * tile.context, Choose{problem, args, tile, first});
    cuda::for_each(lane, rows, List{problem, args, tile, first});
  }
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::index_select
