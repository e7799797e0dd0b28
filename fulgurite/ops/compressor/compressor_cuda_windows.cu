// A block a token, a thread a channel: the token's rows of the state, and where it ends a window the entry.
//
// The state of before is read by the windows that reach back beyond the call; what the call puts in its place may
// not come first. Each half of a state's row is read by one window alone: where that one ends in this call its block
// writes the new row once it has read the old one, thread by thread. Elsewhere the token's own block writes.

#include "fulgurite/ops/compressor/compressor_cuda_windows.h"

#include "fulgurite/core/hadamard.h"
#include "fulgurite/cuda/fast.h"
#include "fulgurite/cuda/fp4.h"
#include "fulgurite/cuda/number.h"
#include "fulgurite/cuda/settled.h"

namespace fulgurite::compressor {
namespace {

constexpr unsigned kAll = ~0u;
constexpr int kWidest = 512;
constexpr uint32_t kInfinite = 0x7F800000u;  // bits of a magnitude from here on: infinity, NaN

struct Params {
  const float *products, *norm;
  View<const float, 2> ape;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  View<float, 4> state;
  KvRows entries;
  IndexKeys keys;
  View<float, 3> projected;
  View<float, 2> pooled;
  int tokens, dim, rope;
  Kind kind;
  KvQuant kv_quant;
  IndexQuant index_quant;
  bool hadamard, pow2_keys, interleaved, two_step_rsqrt;
  float epsilon, inverse_root;
};

// The tokens of one sequence in the call: positions [first, last], of which `first` is token `begin`.
struct Stretch {
  int sequence, begin, first, last;
};

__device__ Stretch stretch_of(const Params& p, int t) {
  const TokenPlace place = p.places(t);
  int before = 0, after = 0;
  for (int from = 0; from < p.tokens; from += static_cast<int>(blockDim.x)) {
    const int i = from + static_cast<int>(threadIdx.x);
    const bool same = i < p.tokens && p.places(i).sequence == place.sequence;
    before += __syncthreads_count(same && i < t);
    after += __syncthreads_count(same && i > t);
  }
  return {place.sequence, t - before, place.position - before, place.position + after};
}

template <int kRatio>
struct Window {
  static constexpr int kHalves = kRatio == 4 ? 2 : 1, kRows = kHalves * kRatio;
  const Params& p;
  Stretch at;
  // Places of position 0, column 0: of the call (as if it began there), of before, and of ape.
  const float* products;
  float* state;
  const float* ape;
  int width, state_row, state_part, ape_row;

  __device__ Window(const Params& params, const Stretch& stretch)
      : p(params),
        at(stretch),
        products(params.products +
                 static_cast<int64_t>(stretch.begin - stretch.first) * 2 * kHalves * params.dim),
        state(params.state.data + stretch.sequence * params.state.stride[0]),
        ape(params.ape.data),
        width(kHalves * params.dim),
        state_row(static_cast<int>(params.state.stride[1])),
        state_part(static_cast<int>(params.state.stride[2])),
        ape_row(static_cast<int>(params.ape.stride[0])) {}

  // u (part 0) or g (part 1) of a position, of the call or of before.
  __device__ float value(int position, int part, int column) const {
    const bool fresh = position >= at.first;
    const float read = __ldcg(fresh ? products + (int64_t{position} * 2 + part) * width + column
                                    : kept(position, part, column));
    if (part == 0) return read;
    const float added = fresh ? __ldg(ape + (position & (kRatio - 1)) * ape_row + column) : 0.0f;
    return fresh ? __fadd_rn(read, added) : read;
  }
  __device__ float* kept(int position, int part, int column) const {
    return state + (position & (kRows - 1)) * state_row + part * state_part + column;
  }
  __device__ void keep(int position, int column) const {
#pragma unroll
    for (int part = 0; part < 2; ++part) *kept(position, part, column) = value(position, part, column);
  }

  // The position that ends the one window which reads this half of a position's row.
  __device__ int end_of_reader(int position, int half) const {
    const int own = position / kRatio * kRatio + kRatio - 1;
    return half + 1 < kHalves ? own + kRatio : own;
  }
  // Of the position whose row is that of the call's `position`, before the call; negative: of none.
  __device__ int older(int position) const { return position - kRows * ((position - at.first) / kRows + 1); }
  __device__ bool ends_here(int position) const { return position >= at.first && position <= at.last; }

  // Of the token at `position`, what no window's block writes.
  __device__ void keep_own(int position, int channel) const {
    if (position + kRows <= at.last) return;
    const int old = older(position);
#pragma unroll
    for (int half = 0; half < kHalves; ++half)
      if (old < 0 || !ends_here(end_of_reader(old, half))) keep(position, half * p.dim + channel);
  }
  // Once the window has read an older position's half.
  __device__ void replace(int position, int column) const {
    const int last = position + (at.last - position) / kRows * kRows;
    if (last > position) keep(last, column);
  }

  // Of the window that ends at `position`: slot s is its position and column.
  __device__ int slot(int position, int s) const { return position - kRows + 1 + s; }
  __device__ int column(int s, int channel) const {
    return kHalves == 2 && s >= kRatio ? p.dim + channel : channel;
  }

  // Slots whose loads are under way together. Those before position 0 are none.
  static constexpr int kTogether = kRows < 16 ? kRows : 16;
  using Slots = float[kTogether];
  __device__ void read(Slots& values, int part, int position, int first, int channel) const {
#pragma unroll
    for (int i = 0; i < kTogether; ++i) {
      const int from = slot(position, first + i);
      const float read = value(max(from, 0), part, column(first + i, channel));
      values[i] = from < 0 ? -INFINITY : read;
    }
  }

  __device__ float average(int position, int channel) const {
    float largest = -INFINITY, weights = 0.0f, sum = 0.0f;
    Slots gates, values;
#pragma unroll 1
    for (int s = 0; s < kRows; s += kTogether) {
      read(gates, 1, position, s, channel);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) largest = gates[i] > largest ? gates[i] : largest;
    }
#pragma unroll 1
    for (int s = 0; s < kRows; s += kTogether) {
      if (kRows > kTogether) read(gates, 1, position, s, channel);
      read(values, 0, position, s, channel);
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const auto weight = static_cast<float>(exp(static_cast<double>(__fsub_rn(gates[i], largest))));
        if (slot(position, s + i) < 0) continue;
        weights = __fadd_rn(weights, weight);
        sum = __fadd_rn(sum, __fmul_rn(weight, values[i]));
      }
    }
    for (int s = 0; s < kRows; ++s) {
      const int from = slot(position, s);
      if (from >= at.first) break;
      if (from >= 0) replace(from, column(s, channel));
    }
    return __fdiv_rn(sum, weights);
  }
};

// --- the row: a thread a channel, `row` what they share ---

__device__ double sum_of_block(double value) {
  __shared__ double parts[32];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const double sum = cuda::sum_of_lanes<32>(value);
  if (lane == 0) parts[warp] = sum;
  __syncthreads();
  return cuda::sum_of_lanes<32>(lane < blockDim.x / 32 ? parts[lane] : 0.0);
}

__device__ float normalized(const Params& p, float x, float* row) {
  const int channel = static_cast<int>(threadIdx.x);
  row[channel] = x;
  cuda::Mean mean = cuda::settled_mean(sum_of_block(cuda::square(x)), p.dim, 1.0 / p.dim);
  if (!mean.certain) {  // the contract's chain, by every warp alike
    double sum = 0.0;
    for (int first = 0; first < p.dim; first += 32)
      sum = cuda::add_lanes_in_order(sum, cuda::square(row[first + channel % 32]));
    mean.value = cuda::exact_mean(sum, p.dim);
  }
  const float r = cuda::reciprocal_root(__fadd_rn(mean.value, p.epsilon), p.two_step_rsqrt);
  return cuda::bf16_rounded(__fmul_rn(__ldg(p.norm + channel), __fmul_rn(x, r)));
}

__device__ float rotated(const Params& p, int position, float x, float* row) {
  const int channel = static_cast<int>(threadIdx.x), i = channel - (p.dim - p.rope), pairs = p.rope / 2;
  __syncthreads();
  row[channel] = x;
  __syncthreads();
  if (i < 0) return x;
  const int pair = p.interleaved ? i / 2 : i % pairs;
  const bool second = p.interleaved ? i % 2 == 1 : i >= pairs;
  const float other = row[p.interleaved ? channel ^ 1 : second ? channel - pairs : channel + pairs];
  const float c = __ldg(&p.table.cosine(position, pair)), s = __ldg(&p.table.sine(position, pair));
  const float turned = second ? __fadd_rn(__fmul_rn(other, s), __fmul_rn(x, c))
                              : __fsub_rn(__fmul_rn(x, c), __fmul_rn(other, s));
  return cuda::bf16_rounded(turned);
}

__device__ float transformed(const Params& p, float x, float* row) {
  const int channel = static_cast<int>(threadIdx.x);
  for (int stride = 1; stride < p.dim; stride *= 2) {
    float other;
    if (stride < 32) {
      other = __shfl_xor_sync(kAll, x, stride);
    } else {
      __syncthreads();
      row[channel] = x;
      __syncthreads();
      other = row[channel ^ stride];
    }
    x = (channel & stride) == 0 ? __fadd_rn(x, other) : __fsub_rn(other, x);
  }
  return cuda::bf16_rounded(__fmul_rn(x, p.inverse_root));
}

// The bits of the largest magnitude of `warps` neighbouring warps, a power of two; 0: of the block.
__device__ uint32_t largest_of(float x, int warps) {
  __shared__ uint32_t of_warps[32];
  const int warp = static_cast<int>(threadIdx.x) / 32, all = static_cast<int>(blockDim.x) / 32;
  uint32_t largest = __reduce_max_sync(kAll, __float_as_uint(x) & 0x7FFFFFFFu);
  if (warps == 1) return largest;
  if (threadIdx.x % 32 == 0) of_warps[warp] = largest;
  __syncthreads();
  const int first = warps == 0 ? 0 : warp / warps * warps;
  for (int w = first; w < (warps == 0 ? all : first + warps); ++w) largest = max(largest, of_warps[w]);
  return largest;
}

struct Code {
  uint8_t bits;
  float scale;
};
__device__ Code e4m3_code(float x, uint32_t largest, bool pow2) {
  if (largest >= kInfinite) return {0x7F, 1.0f};
  const float scale = cuda::e4m3_scale_of(__uint_as_float(largest), pow2);
  return {cuda::e4m3_bits(__fdiv_rn(x, scale)), scale};
}

// As core/quantize.h: the dequantized value of a group of 32.
__device__ float fp4_value(float x) {
  const uint32_t largest = largest_of(x, 1);
  return cuda::Fp4Group(largest).value(x);
}

__device__ void store_entry(const Params& p, int64_t sequence, int64_t entry, float x) {
  const int channel = static_cast<int>(threadIdx.x);
  const KvRow& form = p.entries.row;
  std::byte* const to = p.entries.at(sequence, entry);
  if (p.kv_quant == KvQuant::kE4m3) {
    const Code code = e4m3_code(x, largest_of(x, KvRow::kGroup / 32), true);
    if (channel < form.nope) {
      if (form.form == LatentCache::kFp8) {
        to[channel] = std::byte{code.bits};
        if (channel % KvRow::kGroup == 0)
          p.entries.scales_at(sequence, entry)[channel / KvRow::kGroup] =
              static_cast<std::byte>(__float_as_uint(code.scale) >> 23);
        return;
      }
      x = __fmul_rn(cuda::e4m3_to_float(code.bits), code.scale);
    }
  }
  if (form.form == LatentCache::kFp32)
    reinterpret_cast<float*>(to)[channel] = x;
  else
    reinterpret_cast<uint16_t*>(form.form == LatentCache::kFp8 ? to + form.rope_offset() - 2 * form.nope
                                                               : to)[channel] = cuda::bf16_bits(x);
}

__device__ void store_key(const Params& p, int64_t sequence, int64_t entry, float x) {
  const int channel = static_cast<int>(threadIdx.x);
  const Tensor<1> key = p.keys.keys[sequence][entry];
  if (p.index_quant == IndexQuant::kFp8) {
    const Code code = e4m3_code(x, largest_of(x, 0), p.pow2_keys);
    key.data[channel] = std::byte{code.bits};
    if (channel == 0) p.keys.scales(sequence, entry) = code.scale;
    return;
  }
  if (p.index_quant == IndexQuant::kFp4) x = fp4_value(x);
  reinterpret_cast<uint16_t*>(key.data)[channel] = cuda::bf16_bits(x);
}

template <int kRatio>
__global__ void __launch_bounds__(kWidest, 1) windows(const __grid_constant__ Params p) {
  __shared__ float row[kWidest];
  cuda::release_successor();
  const int t = static_cast<int>(blockIdx.x), channel = static_cast<int>(threadIdx.x);
  const int position = p.places(t).position;
  const Window<kRatio> window(p, stretch_of(p, t));
  cuda::wait_for_predecessor();
  if (p.projected) {
    for (int part = 0; part < 2; ++part)
      for (int c = channel; c < window.width; c += p.dim)
        p.projected(t, part, c) = window.value(position, part, c);
  }
  window.keep_own(position, channel);
  if ((position + 1) % kRatio != 0) return;
  float x = window.average(position, channel);
  if (p.pooled) p.pooled(t, channel) = x;
  const int64_t sequence = window.at.sequence, entry = position / kRatio;
  x = normalized(p, cuda::bf16_rounded(x), row);
  x = rotated(p, position + 1 - kRatio, x, row);
  if (p.kind == Kind::kEntries) return store_entry(p, sequence, entry, x);
  if (p.hadamard) x = transformed(p, x, row);
  store_key(p, sequence, entry, x);
}

}  // namespace

void launch_windows(const Problem& problem, const Args& args, const float* products, const Lane& lane) {
  const Numerics& numerics = problem.setting.numerics;
  const Params params{products,
                      args.norm.data,
                      args.ape,
                      args.places,
                      args.table,
                      args.state,
                      args.entries,
                      args.keys,
                      args.projected,
                      args.pooled,
                      static_cast<int>(args.x.extent[0]),
                      static_cast<int>(problem.dim),
                      static_cast<int>(problem.rope),
                      problem.kind,
                      numerics.kv_quant,
                      numerics.index_quant,
                      numerics.hadamard == Hadamard::kBoth,
                      index_rounding(numerics) == ScaleRounding::kPow2,
                      layout_in_force(problem) == rotary::Layout::kInterleaved,
                      numerics.rsqrt == Rsqrt::kTwoStep,
                      problem.eps,
                      inverse_root(problem.dim)};
  const cuda::Grid grid{{static_cast<unsigned>(params.tokens)}, static_cast<unsigned>(problem.dim)};
  problem.ratio == 4 ? cuda::launch(lane, grid, windows<4>, params)
                     : cuda::launch(lane, grid, windows<128>, params);
}

}  // namespace fulgurite::compressor
