// A block takes 32 columns of all four streams, a warp a stream: its rows of fn become operands of the matrix
// instruction in double before the predecessor is waited for; then eight tokens at a time. With g = lane / 4 and
// t = lane % 4 a lane has columns 8t .. 8t + 7 of token g.

#include <algorithm>

#include "fulgurite/cuda/eight.h"
#include "fulgurite/cuda/mma_double.h"
#include "fulgurite/cuda/settled.h"
#include "fulgurite/ops/hyper_connection/hyper_connection_cuda_kernels.h"

namespace fulgurite::hyper_connection {
namespace {

constexpr int kThreads = 32 * kStreams, kTokens = 8, kSquares = kSums - 1;
constexpr int kResident = 528;  // blocks that the device runs at once; no bit depends on it

template <class T>  // uint16_t: bf16, or float
struct Operands {
  const T *streams, *block;                 // block or none
  const float *post, *mix, *replaced, *fn;  // of the block; or none; fn
  T* streams_out;
  int64_t token_stride, stream_stride, block_stride, post_stride, mix_stride, mix_row_stride;
  int64_t replaced_stride, fn_stride, out_token_stride, out_stream_stride;
  int tokens, hidden, outputs;
  double* sums;
};

// Rows g, g + 8 and g + 16 of fn at four columns of each of two instructions.
using Weight = double[2][3][4];

template <class T>
__device__ void read_weight(const Operands<T>& p, int stream, int column, Weight& weight) {
#pragma unroll
  for (int r = 0; r < 3; ++r) {
    const int row = static_cast<int>(threadIdx.x) % 32 / 4 + 8 * r;
    const float* const at = p.fn + row * p.fn_stride + stream * p.hidden + column;
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      float4 value{};
      if (row < p.outputs && column < p.hidden) value = __ldg(reinterpret_cast<const float4*>(at) + q);
      weight[q][r][0] = value.x, weight[q][r][1] = value.y;
      weight[q][r][2] = value.z, weight[q][r][3] = value.w;
    }
  }
}

// A stream's columns of a token, and what changes them: the block's columns, and of the site before how much of them
// and of each stream.
struct Token {
  cuda::Eight x, block;
  float post, mix[kStreams];
};

// Tokens beyond the last stand for the last, and are not stored.
template <class T>
__device__ Token read_token(const Operands<T>& p, int number, int k, int column) {
  Token token{};
  const int64_t t = min(number, p.tokens - 1);
  if (column < p.hidden) {
    if (p.replaced != nullptr)
      cuda::read(token.x, p.replaced + t * p.replaced_stride + k * p.hidden + column);
    else
      cuda::read(token.x, p.streams + t * p.token_stride + k * p.stream_stride + column);
  }
  if (p.block == nullptr) return token;
  if (column < p.hidden) cuda::read(token.block, p.block + t * p.block_stride + column);
  token.post = __ldcg(p.post + t * p.post_stride + k);
#pragma unroll
  for (int j = 0; j < kStreams; ++j)
    token.mix[j] = __ldcg(p.mix + t * p.mix_stride + j * p.mix_row_stride + k);
  return token;
}

// The streams' columns as they come, of all lanes.
using Streams = float4[kStreams][2][32];

__device__ void put(Streams& all, int stream, const cuda::Eight& x) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int q = 0; q < 2; ++q) all[stream][q][lane] = {x[4 * q], x[4 * q + 1], x[4 * q + 2], x[4 * q + 3]};
}

// In the contract's order: the block, then the streams ascending.
__device__ void update(Token& token, const Streams& all) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int i = 0; i < 8; ++i) token.x[i] = __fadd_rn(0.0f, __fmul_rn(token.post, token.block[i]));
#pragma unroll
  for (int j = 0; j < kStreams; ++j) {
#pragma unroll
    for (int q = 0; q < 2; ++q) {
      const float4 other = all[j][q][lane];
      const float values[4] = {other.x, other.y, other.z, other.w};
#pragma unroll
      for (int i = 0; i < 4; ++i)
        token.x[4 * q + i] = __fadd_rn(token.x[4 * q + i], __fmul_rn(token.mix[j], values[i]));
    }
  }
}

// A warp's sums of eight tokens.
using Sums = double[kTokens][kSums];

__device__ void multiply(const cuda::Eight& x, const Weight& weight, Sums& sums) {
  const int g = static_cast<int>(threadIdx.x) % 32 / 4, t = static_cast<int>(threadIdx.x) % 4;
  double low[4] = {}, high[4] = {}, squares = 0.0;
#pragma unroll
  for (int q = 0; q < 2; ++q) {
    double a[8], b[4], c[8];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      b[i] = x[4 * q + i];
      squares = __fma_rn(b[i], b[i], squares);
      a[2 * i] = weight[q][0][i], a[2 * i + 1] = weight[q][1][i];
      c[2 * i] = weight[q][2][i], c[2 * i + 1] = 0.0;
    }
    cuda::mma_double(low, a, b);
    cuda::mma_double(high, c, b);
  }
  squares = cuda::sum_of_lanes<4>(squares);
  if (t == 0) sums[g][kSquares] = squares;
#pragma unroll
  for (int i = 0; i < 4; ++i) sums[2 * t + i % 2][g + i / 2 * 8] = low[i];
#pragma unroll
  for (int i = 0; i < 2; ++i) sums[2 * t + i][g + 16] = high[i];
}

// The four streams' sums, ascending.
template <class T>
__device__ void store_sums(const Operands<T>& p, const Sums (&of_streams)[kStreams], int first) {
  for (int i = static_cast<int>(threadIdx.x); i < kTokens * kSums; i += kThreads) {
    const int token = i / static_cast<int>(kSums), n = i % static_cast<int>(kSums);
    if (first + token >= p.tokens) return;
    double sum = of_streams[0][token][n];
#pragma unroll
    for (int k = 1; k < kStreams; ++k) sum = __dadd_rn(sum, of_streams[k][token][n]);
    p.sums[(static_cast<int64_t>(first + token) * gridDim.x + blockIdx.x) * kSums + n] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads, 4) sum_slices(const __grid_constant__ Operands<T> p) {
  __shared__ Streams streams;
  __shared__ Sums sums[kStreams];
  cuda::release_successor();
  const int k = static_cast<int>(threadIdx.x) / 32, g = static_cast<int>(threadIdx.x) % 32 / 4;
  const int column = static_cast<int>(blockIdx.x * kSlice) + static_cast<int>(threadIdx.x) % 4 * 8;
  const bool has_any = column < p.hidden;
  Weight weight;
  read_weight(p, k, column, weight);
  cuda::wait_for_predecessor();
  const int step = static_cast<int>(gridDim.y) * kTokens;
  int first = static_cast<int>(blockIdx.y) * kTokens;
  Token next = read_token(p, first + g, k, column);
  for (; first < p.tokens; first += step) {
    Token token = next;
    if (first + step < p.tokens) next = read_token(p, first + step + g, k, column);
    put(streams, k, token.x);
    __syncthreads();  // streams_out may be the memory of streams
    if (p.block != nullptr && p.replaced == nullptr) {
      update(token, streams);
      cuda::round<T>(token.x);
    }
    if (has_any && first + g < p.tokens && p.streams_out != nullptr)
      cuda::write(token.x,
                  p.streams_out + (first + g) * p.out_token_stride + k * p.out_stream_stride + column);
    multiply(token.x, weight, sums[k]);
    __syncthreads();
    store_sums(p, sums, first);
  }
}

template <class T>
void launch(const Problem& problem, const Args& args, double* sums, const Lane& lane) {
  const auto at = [](const auto& view) { return reinterpret_cast<const T*>(view.data); };
  const bool updated = updates(args);
  const Operands<T> operands{at(args.streams),
                             at(args.block),
                             args.post.data,
                             args.mix.data,
                             args.replaced.data,
                             args.fn.data,
                             updated ? reinterpret_cast<T*>(args.streams_out.data) : nullptr,
                             args.streams.stride[0],
                             args.streams.stride[1],
                             args.block.stride[0],
                             args.post.stride[0],
                             args.mix.stride[0],
                             args.mix.stride[1],
                             args.replaced.stride[0],
                             args.fn.stride[0],
                             args.streams_out.stride[0],
                             args.streams_out.stride[1],
                             static_cast<int>(args.streams.extent[0]),
                             static_cast<int>(problem.hidden),
                             static_cast<int>(outputs(problem)),
                             sums};
  const auto slices = static_cast<unsigned>(slices_of(problem)),
             groups = static_cast<unsigned>((operands.tokens + kTokens - 1) / kTokens);
  const unsigned sharing = std::min(groups, std::max(1u, kResident / slices));
  cuda::launch(lane, {{slices, sharing}, kThreads}, sum_slices<T>, operands);
}

}  // namespace

void launch_sums(const Problem& problem, const Args& args, double* sums, const Lane& lane) {
  args.streams.dtype == DType::kF32 ? launch<float>(problem, args, sums, lane)
                                    : launch<uint16_t>(problem, args, sums, lane);
}

}  // namespace fulgurite::hyper_connection
