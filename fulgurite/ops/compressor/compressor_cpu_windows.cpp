#include "fulgurite/ops/compressor/compressor_cpu_windows.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "fulgurite/core/quantize.h"
#include "fulgurite/cpu/fp4_rounding.h"
#include "fulgurite/cpu/operand_rows.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/rows.h"

namespace fulgurite::compressor {
namespace {

constexpr int64_t kChannels = 64;       // of a stretch that are one piece of work
constexpr int64_t kMostSlots = 128;     // of a window
constexpr int64_t kExpOperations = 40;  // that a slot of a window costs, in operations

struct Call {
  const Problem& problem;
  const Args& args;
  const Windows& windows;
  const cpu::Kernels& kernels = cpu::kernels(problem.setting.target.isa);
};

struct Counts {
  int64_t stretches = 0;
  int64_t windows = 0;
};

Counts find_stretches(const Call& call) {
  Counts counts;
  for (int64_t t = 0; t < call.args.places.extent[0]; ++t) {
    const TokenPlace place = call.args.places(t);
    if (t == 0 || call.args.places(t - 1).sequence != place.sequence)
      call.windows.stretches[counts.stretches++] = {static_cast<int32_t>(t), 0,
                                                    static_cast<int32_t>(counts.windows)};
    call.windows.stretches[counts.stretches - 1].count += 1;
    if (ends_window(call.problem, place.position))
      call.windows.ends[counts.windows++] = static_cast<int32_t>(t);
  }
  return counts;
}

// Channels [first, first + count) of both halves.
struct Channels {
  int64_t first;
  int64_t count;
};

void take_token(const Call& call, int64_t t, const Channels& channels) {
  const TokenPlace place = call.args.places(t);
  const View<float, 2> from = call.args.projected[t];
  const View<float, 2> to = call.args.state[place.sequence][place.position % state_rows(call.problem)];
  for (int64_t part = 0; part < 2; ++part)
    for (int64_t c = channels.first; c < width(call.problem); c += call.problem.dim)
      std::copy_n(&from(part, c), channels.count, &to(part, c));
}

// The window that ends at `place`: its slots lie where the state has them.
void pool_window(const Call& call, TokenPlace place, const Channels& channels, float* out) {
  const Problem& problem = call.problem;
  const View<float, 3> rows = call.args.state[place.sequence];
  const float* slots[kMostSlots];
  int64_t count = 0;
  const auto take = [&](int64_t first, int64_t column) {
    for (int64_t p = std::max(first, int64_t{0}); p < first + problem.ratio; ++p)
      slots[count++] = &rows(p % state_rows(problem), 0, column);
  };
  const int64_t first = place.position + 1 - problem.ratio;
  if (halves(problem) == 2) take(first - problem.ratio, channels.first);
  take(first, (halves(problem) - 1) * problem.dim + channels.first);
  call.kernels.pool({slots, count, rows.stride[1]}, channels.count, out);
}

// A stretch's tokens in order: a row of the state is read before the token that overwrites it comes.
void pool_stretch(const Call& call, const Stretch& stretch, const Channels& channels) {
  float* pooled = call.windows.pooled + stretch.windows * call.problem.dim + channels.first;
  for (int64_t t = stretch.first; t < stretch.first + stretch.count; ++t) {
    take_token(call, t, channels);
    const TokenPlace place = call.args.places(t);
    if (!ends_window(call.problem, place.position)) continue;
    pool_window(call, place, channels, pooled);
    if (call.args.pooled) std::copy_n(pooled, channels.count, &call.args.pooled(t, channels.first));
    pooled += call.problem.dim;
  }
}

void pool(const Call& call, const Lane& lane, const Counts& counts) {
  const int64_t dim = call.problem.dim, pieces = (dim + kChannels - 1) / kChannels;
  const int64_t operations =
      call.args.places.extent[0] * 2 * width(call.problem) +
      counts.windows * halves(call.problem) * call.problem.ratio * dim * kExpOperations;
  cpu::parallel_for(cpu::worth_splitting(lane, operations / 8), counts.stretches * pieces,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t piece = begin; piece < end; ++piece) {
                        const int64_t first = piece % pieces * kChannels;
                        pool_stretch(call, call.windows.stretches[piece / pieces],
                                     {first, std::min(kChannels, dim - first)});
                      }
                    });
}

// In place: x is rounded before and after.
void normalize(const Call& call, float* x) {
  const Problem& problem = call.problem;
  norm::Problem norm = norm_of(problem);
  norm.setting.numerics.activation = Activation::kFp32;
  const View<float, 2> row(x, {1, problem.dim});
  norm::Args args;
  args.x = row;
  args.weight = call.args.norm;
  args.out = row;
  cpu::round_floats(call.kernels, call.args.x.dtype, x, problem.dim);
  norm::kCpu.run(norm, args, {});
  cpu::round_floats(call.kernels, call.args.x.dtype, x, problem.dim);
}

// The row's first values through kv_quant; fp8: their codes and scales are written.
void quantize(const Call& call, TokenPlace at, float* x) {
  const KvRows& cache = call.args.entries;
  const bool keeps_codes = cache.row.form == LatentCache::kFp8;
  for (int64_t group = 0; group < cache.row.groups(); ++group) {
    const int64_t first = group * KvRow::kGroup, count = std::min(KvRow::kGroup, cache.row.nope - first);
    uint8_t codes[KvRow::kGroup];
    const float scale = call.kernels.quantize_e4m3(x + first, count, ScaleRounding::kPow2, codes);
    if (!keeps_codes) {
      call.kernels.decode_e4m3(codes, count, scale, x + first);
      continue;
    }
    const e8m0 exponent = *exact_e8m0(scale);
    std::memcpy(cache.at(at.sequence, at.position) + first, codes, static_cast<size_t>(count));
    std::memcpy(cache.scales_at(at.sequence, at.position) + group, &exponent, 1);
  }
}

// `at` is the entry's sequence and number.
void write_entry(const Call& call, TokenPlace at, float* x) {
  const KvRow& row = call.args.entries.row;
  std::byte* const to = call.args.entries.at(at.sequence, at.position);
  if (call.problem.setting.numerics.kv_quant == KvQuant::kE4m3) quantize(call, at, x);
  if (row.form == LatentCache::kFp32) {
    std::memcpy(to, x, static_cast<size_t>(row.width()) * sizeof(float));
    return;
  }
  const int64_t first = row.form == LatentCache::kFp8 ? row.nope : 0;
  call.kernels.narrow_bf16(x + first, row.width() - first,
                           reinterpret_cast<uint16_t*>(to + (first == 0 ? 0 : row.rope_offset())));
}

void write_key(const Call& call, TokenPlace at, float* x) {
  const Numerics& numerics = call.problem.setting.numerics;
  const int64_t dim = call.problem.dim;
  const Tensor<1> key = call.args.keys.keys[at.sequence][at.position];
  if (numerics.hadamard == Hadamard::kBoth) {
    call.kernels.hadamard(x, dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(dim))));
    cpu::round_floats(call.kernels, call.args.x.dtype, x, dim);
  }
  if (numerics.index_quant == IndexQuant::kFp8) {
    call.args.keys.scales(at.sequence, at.position) = call.kernels.quantize_e4m3(
        x, dim, index_rounding(numerics), reinterpret_cast<uint8_t*>(key.as<e4m3>().data));
    return;
  }
  if (numerics.index_quant == IndexQuant::kFp4) cpu::round_to_fp4(x, dim);
  cpu::write_floats(call.kernels, x, 0, dim, key);
}

void make_row(const Call& call, int64_t window) {
  const Problem& problem = call.problem;
  float* const x = call.windows.pooled + window * problem.dim;
  const TokenPlace place = call.args.places(call.windows.ends[window]);
  const int64_t first = place.position + 1 - problem.ratio;
  normalize(call, x);
  float* const turned = x + problem.dim - problem.rope;
  call.kernels.rotate(call.args.table.cosine[first].data, call.args.table.sine[first].data, problem.rope / 2,
                      layout_in_force(problem) == rotary::Layout::kInterleaved, turned);
  cpu::round_floats(call.kernels, call.args.x.dtype, turned, problem.rope);
  const TokenPlace at{place.sequence, static_cast<int32_t>(first / problem.ratio)};
  if (problem.kind == Kind::kEntries)
    write_entry(call, at, x);
  else
    write_key(call, at, x);
}

}  // namespace

int64_t chunk_of(const Problem& problem) {
  return std::clamp<int64_t>(problem.largest_batch, 1, cpu::kLargestChunk);
}

Windows cut_windows(const Problem& problem, cpu::Cutter& cutter) {
  const int64_t chunk = chunk_of(problem);
  return {cutter.take<float>(chunk * 2 * width(problem)), cutter.take<float>(chunk * problem.dim),
          cutter.take<Stretch>(chunk), cutter.take<int32_t>(chunk)};
}

Args chunk_args(const Problem& problem, const Args& args, int64_t first, int64_t count,
                const Windows& windows) {
  Args part = args;
  part.x = args.x.slice(0, first, count);
  part.places = args.places.slice(0, first, count);
  part.projected = args.projected ? args.projected.slice(0, first, count)
                                  : View<float, 3>(windows.projected, {count, 2, width(problem)});
  if (args.pooled) part.pooled = args.pooled.slice(0, first, count);
  return part;
}

void add_ape(const cpu::Kernels& kernels, const Problem& problem, const Args& args, int64_t t, int64_t first,
             int64_t count) {
  float* const g = &args.projected(t, 1, first);
  kernels.add(g, &args.ape(args.places(t).position % problem.ratio, first), count, g);
}

void make_entries(const Problem& problem, const Args& args, const Lane& lane, const Windows& windows) {
  const Call call{problem, args, windows};
  const Counts counts = find_stretches(call);
  pool(call, lane, counts);
  cpu::parallel_for(cpu::worth_splitting(lane, 8 * counts.windows * problem.dim), counts.windows,
                    [&](int64_t begin, int64_t end, int) {
                      for (int64_t window = begin; window < end; ++window) make_row(call, window);
                    });
}

}  // namespace fulgurite::compressor
