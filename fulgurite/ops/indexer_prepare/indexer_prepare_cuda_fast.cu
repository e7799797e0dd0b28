// One launch for queries and keys: a warp takes four vectors at a time.

#include <cmath>

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda_codes.h"

namespace fulgurite::indexer_prepare::cuda {
namespace {

constexpr int kWarps = 4;    // of a block
constexpr int kVectors = 4;  // of a warp, at a time

struct Roots {  // fp32(n^-1/2)
  float heads, dim;
};

// --- queries ---

// Heads first_head + 4i + (0..3), i < Rounds, of one token.
template <int Rounds>
__device__ void prepare_queries(const Params& params, const Roots& roots, int token, int first_head) {
  const int position = params.places[token].y;
  wait_for_predecessor();
  Raw raw[Rounds];
  float gate[Rounds];
#pragma unroll
  for (int i = 0; i < Rounds; ++i) {
    const int head = min(first_head + kVectors * i + vector_of_warp(), params.heads - 1);
    read(raw[i], params.q + token * params.q_token_stride + head * params.q_head_stride);
    gate[i] = __ldcg(params.gate + token * params.gate_stride + head);
  }
  const Turn turn =
      turn_at(params, position);  // after the queries' loads, which need not wait for the position
#pragma unroll
  for (int i = 0; i < Rounds; ++i) {
    const int head = first_head + kVectors * i + vector_of_warp();
    Vector v;
    widen(raw[i], v);
    rotate(v, turn, params);
    if (params.hadamard_q) hadamard(v, roots.dim);
    const Codes codes = quantize(rounded(v), params.pow2);
    if (head >= params.heads) continue;
    write(codes, params.q_codes + token * params.code_token_stride + head * params.code_head_stride);
    if (lane_of_vector() == 0)
      params.weights[token * params.weights_stride + head] =
          __fmul_rn(__fmul_rn(__fmul_rn(gate[i], roots.heads), codes.scale), roots.dim);
  }
}

// --- keys ---

template <class Value>
__device__ Value reduce_sum(Value value) {
#pragma unroll
  for (int bit = 1; bit < 8; bit *= 2) value += __shfl_xor_sync(kAll, value, bit);
  return value;
}

// The sum of term(value) in the contract's order, by all lanes alike.
template <class Term>
__device__ double ordered_sum(const Vector& v, const Term& term) {
  double sum = 0.0;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) sum = __dadd_rn(sum, term(__shfl_sync(kAll, v[m][e], j, 8)));
    }
  }
  return sum;
}
template <class Term>
__device__ double tree_sum(const Vector& v, const Term& term) {
  double rows[4];
#pragma unroll
  for (int m = 0; m < 4; ++m)
    rows[m] = __dadd_rn(__dadd_rn(term(v[m][0]), term(v[m][1])), __dadd_rn(term(v[m][2]), term(v[m][3])));
  return reduce_sum(__dadd_rn(__dadd_rn(rows[0], rows[1]), __dadd_rn(rows[2], rows[3])));
}

// Any order of the sum is exact: bf16 values, so multiples of 2^(least - 7) whose partial sums stay below
// 2^(most + 8), and 53 bits hold both.
__device__ bool sums_exactly(const Vector& v) {
  int least = 255, most = 0;
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const uint32_t bits = __float_as_uint(v[m][e]) & 0x7FFFFFFFu;
      const int exponent = max(static_cast<int>(bits >> 23), 1);
      least = bits == 0 ? least : min(least, exponent);
      most = max(most, exponent);
    }
  }
#pragma unroll
  for (int bit = 1; bit < 8; bit *= 2) {
    least = min(least, __shfl_xor_sync(kAll, least, bit));
    most = max(most, __shfl_xor_sync(kAll, most, bit));
  }
  return most < 255 && most - least <= 53 - 15;
}

__device__ float mean_of(const Vector& v) {
  const auto value = [](float x) { return static_cast<double>(x); };
  double sum = tree_sum(v, value);
  const bool exact = sums_exactly(v);
  if (!__all_sync(kAll, exact)) {
    const double ordered = ordered_sum(v, value);
    if (!exact) sum = ordered;
  }
  return static_cast<float>(sum / kDim);
}

// 128 terms that are not negative: two orders of their sum differ by less than 2^-45 of it. Where that cannot
// move the rounded mean, the order does not matter.
__device__ float mean_square_of(const Vector& v) {
  const auto square = [](float x) { return static_cast<double>(x) * x; };
  double sum = tree_sum(v, square);
  const bool certain =
      static_cast<float>(sum * (1.0 - 0x1p-45) / kDim) == static_cast<float>(sum * (1.0 + 0x1p-45) / kDim);
  if (!__all_sync(kAll, certain)) {
    const double ordered = ordered_sum(v, square);
    if (!certain) sum = ordered;
  }
  return static_cast<float>(sum / kDim);
}

__device__ float reciprocal_sqrt(float m, bool two_step) {
  if (two_step) return __fdiv_rn(1.0f, __fsqrt_rn(m));
  return static_cast<float>(1.0 / sqrt(static_cast<double>(m)));
}

// (x - mean) / sqrt(variance + epsilon)
__device__ void standardize(Vector& v, const Params& params) {
  const float mean = mean_of(v);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[m][e] = __fsub_rn(v[m][e], mean);
  }
  const float r = reciprocal_sqrt(__fadd_rn(mean_square_of(v), params.epsilon), params.two_step_rsqrt);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[m][e] = __fmul_rn(v[m][e], r);
  }
}

__device__ void read_norm(Vector& weight, Vector& bias, const Params& params) {
  read(weight, params.k_weight);
  read(bias, params.k_bias);
}
__device__ void scale_and_shift(Vector& v, Vector& weight, Vector& bias, bool round_norm) {
  if (round_norm) {
    round(weight);
    round(bias);
  }
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int e = 0; e < 4; ++e) v[m][e] = __fadd_rn(__fmul_rn(v[m][e], weight[m][e]), bias[m][e]);
  }
  round(v);
}

// kEarly: the norm's parameters are read before x, into registers that only a few tokens can afford.
template <bool kEarly>
__device__ void prepare_keys(const Params& params, const Roots& roots, int first_token) {
  const int own = first_token + vector_of_warp(), token = min(own, params.tokens - 1);
  const int2 place = params.places[token];  // sequence, position
  Vector weight, bias;
  if constexpr (kEarly) read_norm(weight, bias, params);
  wait_for_predecessor();
  Raw raw;
  read(raw, params.k + token * params.k_stride);
  const Turn turn = turn_at(params, place.y);
  const int page = __ldg(params.block_table + place.x * params.block_table_stride + place.y / kPageTokens);
  Vector v;
  widen(raw, v);
  standardize(v, params);
  if constexpr (!kEarly) read_norm(weight, bias, params);
  scale_and_shift(v, weight, bias, params.round_norm);
  rotate(v, turn, params);
  if (params.hadamard_k) hadamard(v, roots.dim);
  const Codes codes = quantize(rounded(v), params.pow2);
  if (own >= params.tokens) return;
  uint8_t* const at = params.key_pages + page * params.page_stride;
  const int slot = place.y % kPageTokens;
  write(codes, at + slot * kDim);
  if (lane_of_vector() == 0) reinterpret_cast<float*>(at + kPageTokens * kDim)[slot] = codes.scale;
}

// The first blocks take keys, whose way is longest; the others queries, `units` warps a token.
template <int Rounds>
__global__ __launch_bounds__(32 * kWarps,
                             Rounds == 1 ? 1 : 8) void prepare(const __grid_constant__ Params params,
                                                               Roots roots, int key_blocks, int units) {
  release_successor();
  const int block = static_cast<int>(blockIdx.x), warp = static_cast<int>(threadIdx.x) / 32;
  if (block < key_blocks) {
    const int first = (block * kWarps + warp) * kVectors;
    if (first < params.tokens) prepare_keys<Rounds == 1>(params, roots, first);
  } else {
    const int unit = (block - key_blocks) * kWarps + warp, token = unit / units;
    if (token < params.tokens)
      prepare_queries<Rounds>(params, roots, token, unit % units * (kVectors * Rounds));
  }
}

float inverse_root(int n) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))); }

template <int Rounds>
cudaError_t launch_rounds(const Params& params, cudaStream_t stream) {
  const int units = (params.heads + kVectors * Rounds - 1) / (kVectors * Rounds);
  const int keys = params.k != nullptr ? (params.tokens + kWarps * kVectors - 1) / (kWarps * kVectors) : 0;
  const int64_t queries = (static_cast<int64_t>(params.tokens) * units + kWarps - 1) / kWarps;
  cudaLaunchAttribute attribute = dependent_launch(params.dependent);
  cudaLaunchConfig_t config{};
  config.gridDim = {static_cast<unsigned>(keys + queries), 1, 1};
  config.blockDim = {32 * kWarps, 1, 1};
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, prepare<Rounds>, params,
                            Roots{inverse_root(params.heads), inverse_root(kDim)}, keys, units);
}

}  // namespace

void launch(const Params& params, cudaStream_t stream) {
  if (params.tokens == 0) return;
  // Many vectors: two a lane, whose loads are under way together. No bit depends on it.
  const bool many = static_cast<int64_t>(params.tokens) * params.heads >= 8192 && params.heads % 8 == 0;
  fulgurite::cuda::check(many ? launch_rounds<2>(params, stream) : launch_rounds<1>(params, stream),
                         "indexer_prepare");
}

}  // namespace fulgurite::indexer_prepare::cuda
