#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/linear_sum.h"
#include "fulgurite/cuda/rows.h"
#include "fulgurite/ops/compressor/compressor.h"

namespace fulgurite::compressor {
namespace {

constexpr int64_t kMostTokens = 1024;  // that go through the phases at once

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(problem.largest_batch, 1, kMostTokens);
}

struct Memory {
  float* projected = nullptr;  // [tokens, 2, width]: u and g
  float* rows = nullptr;       // [tokens, dim]: of a token that ends a window its entry
};

Memory memory_in(const Problem& problem, cuda::Scratch& scratch) {
  Memory memory;
  memory.projected = scratch.take<float>(chunk_of(problem) * 2 * width(problem));
  memory.rows = scratch.take<float>(chunk_of(problem) * problem.dim);
  return memory;
}

// `count` tokens from `first`. While they go through the phases the state is that of the tokens before them.
struct Chunk {
  Problem problem;
  Args args;
  rotary::Layout layout;
  int64_t first, count;
  Memory memory;

  FULGURITE_HOST_DEVICE TokenPlace place(int64_t index) const { return args.places(first + index); }
  FULGURITE_HOST_DEVICE float projected(int64_t index, int64_t part, int64_t c) const {
    return memory.projected[(index * 2 + part) * width(problem) + c];
  }
  // Is the token in the chunk, and of this sequence? A sequence's tokens stand together, one position apart.
  FULGURITE_HOST_DEVICE bool has(int64_t index, int32_t sequence) const {
    return index >= 0 && index < count && place(index).sequence == sequence;
  }
};

// Index: u or g of a token's channel.
struct Project {
  Chunk chunk;
  cuda::Matrix wkv, wgate;

  FULGURITE_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t columns = width(chunk.problem), c = at % columns, part = at / columns % 2;
    const int64_t index = at / columns / 2, t = chunk.first + index;
    float value = cuda::sum_of_products(chunk.args.x, t, part == 0 ? wkv : wgate, c, WeightReading::kExact);
    if (part == 1) value = value + chunk.args.ape(chunk.place(index).position % chunk.problem.ratio, c);
    chunk.memory.projected[at] = value;
    if (chunk.args.projected) chunk.args.projected(t, part, c) = value;
  }
};

// Index: a channel of a token; of those that end a window, its average.
struct Pool {
  Chunk chunk;

  // u or g of a window's slot: A before B, of the chunk or of the state.
  FULGURITE_HOST_DEVICE float slot(int64_t index, int64_t back, int64_t part, int64_t c) const {
    const TokenPlace place = chunk.place(index);
    if (chunk.has(index - back, place.sequence)) return chunk.projected(index - back, part, c);
    return chunk.args.state(place.sequence, (place.position - back) % state_rows(chunk.problem), part, c);
  }
  // Of the token `back` before the window's last: of 2 ratio tokens the older half are A.
  FULGURITE_HOST_DEVICE int64_t column(int64_t back, int64_t c) const {
    const bool b = halves(chunk.problem) == 2 && back < chunk.problem.ratio;
    return b ? chunk.problem.dim + c : c;
  }

  FULGURITE_HOST_DEVICE float average(int64_t index, int64_t c) const {
    const int64_t position = chunk.place(index).position;
    const int64_t oldest = std::min(state_rows(chunk.problem) - 1, position);
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t back = oldest; back >= 0; --back) {
      const float gate = slot(index, back, 1, column(back, c));
      largest = gate > largest ? gate : largest;
    }
    float weights = 0.0f, sum = 0.0f;
    for (int64_t back = oldest; back >= 0; --back) {
      const float gate = slot(index, back, 1, column(back, c));
      const float p = static_cast<float>(std::exp(static_cast<double>(gate - largest)));
      weights = weights + p;
      sum = sum + p * slot(index, back, 0, column(back, c));
    }
    return sum / weights;
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t index = at / chunk.problem.dim, c = at % chunk.problem.dim;
    if (!ends_window(chunk.problem, chunk.place(index).position)) return;
    const float value = average(index, c);
    chunk.memory.rows[at] = value;
    if (chunk.args.pooled) chunk.args.pooled(chunk.first + index, c) = value;
  }
};

// Index: u or g of a token's channel, into the state: of those that share a row the last token's.
struct Keep {
  Chunk chunk;

  FULGURITE_HOST_DEVICE void operator()(int64_t at) const {
    const int64_t columns = width(chunk.problem), rows = state_rows(chunk.problem);
    const int64_t c = at % columns, part = at / columns % 2, index = at / columns / 2;
    const TokenPlace place = chunk.place(index);
    if (chunk.has(index + rows, place.sequence)) return;
    chunk.args.state(place.sequence, place.position % rows, part, c) = chunk.memory.projected[at];
  }
};

// Index: a token; of those that end a window, the entry's row.
struct MakeEntry {
  Chunk chunk;
  ScaleRounding rounding;  // of keys

  FULGURITE_HOST_DEVICE void write_key(int64_t sequence, int64_t entry, const cuda::Row& row) const {
    const Numerics& numerics = chunk.problem.setting.numerics;
    const Tensor<1> key = chunk.args.keys.keys[sequence][entry];
    const std::span<float> x(row.x, static_cast<size_t>(row.width));
    if (numerics.hadamard == Hadamard::kBoth) row.hadamard();
    if (numerics.index_quant == IndexQuant::kFp8) {
      chunk.args.keys.scales(sequence, entry) = quantize_e4m3(x, rounding, key.as<e4m3>().data);
      return;
    }
    if (numerics.index_quant == IndexQuant::kFp4) round_to_fp4(x);
    for (int64_t i = 0; i < row.width; ++i) store(key, row.x[i], i);
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const Problem& problem = chunk.problem;
    const TokenPlace place = chunk.place(index);
    if (!ends_window(problem, place.position)) return;
    const cuda::Row row{chunk.memory.rows + index * problem.dim, problem.dim, chunk.args.x.dtype};
    row.round();
    row.normalize(chunk.args.norm, problem.eps, problem.setting.numerics);
    const int64_t first = place.position + 1 - problem.ratio, entry = first / problem.ratio;
    rotary::rotate(chunk.layout, chunk.args.table.cosine[first].data, chunk.args.table.sine[first].data,
                   problem.rope, row.x + problem.dim - problem.rope);
    row.round();
    if (problem.kind == Kind::kEntries)
      store_kv_row(chunk.args.entries, place.sequence, entry, {row.x, static_cast<size_t>(row.width)},
                   problem.setting.numerics.kv_quant);
    else
      write_key(place.sequence, entry, row);
  }
};

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  memory_in(problem, scratch);
  return scratch.used();
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::Scratch scratch(lane);
  const Memory memory = memory_in(problem, scratch);
  const cuda::Matrix wkv(*args.wkv), wgate(*args.wgate);
  cuda::for_each_chunk(args.x.extent[0], chunk_of(problem), [&](int64_t first, int64_t count) {
    const Chunk chunk{problem, args, layout_in_force(problem), first, count, memory};
    const int64_t channels = count * 2 * width(problem);
    cuda::for_each(lane, channels, Project{chunk, wkv, wgate});
    cuda::for_each(lane, count * problem.dim, Pool{chunk});
    cuda::for_each(lane, channels, Keep{chunk});
    cuda::for_each(lane, count, MakeEntry{chunk, index_rounding(problem.setting.numerics)});
  });
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::compressor
