#pragma once
// DeepSeek-V4's attention on Hopper (sm_90a): rows of 448 codes and 64 bf16, any multiple of 8 heads.
//
// Keys       of a token: its window, ascending, then its entries: without gaps, in tiles of 64.
// Score      two accumulations on the tensor core (columns 0 .. 255, 256 .. 511; groups of 16 as core/tensor_core.h
//            has them), added, times scale in fp32.
// Runs       the n tiles are dealt to `splits` runs of whole tiles: run s has tiles [n s / splits, n (s + 1) / splits).
//            A run is the contract's running softmax over its tiles, P in bf16, unrounded denominator, from
//            m = -infinity: m_s, l_s, O_s. Where splits > 1: m = the largest m_s, w_s = e(m_s - m),
//            l = fma(l_s, w_s, l) and O = fma(O_s, w_s, O), ascending, from 0. Then l = l + exp(sink - m),
//            o = O * (1 / l), 1 / l rounded once; rotated back in fp32; bf16.
// e(x)       ex2.approx.ftz(x * fp32(log2 e)), x <= 0: within 2^-22 + 2^-23 |x|, relative; below 2^-126 it is 0.
// l_s        fp32: a sum for each of the four lanes that share a head, then pairwise.
// Bits       depend on the token's keys, on q and on `splits`; not on the batch, on block_heads, or on where and when
//            blocks run.
// Bound      sparse_attention_cuda.h derives it; compressed_attention_audit.cpp has it.

#include <cuda_runtime.h>

#include <cstdint>

#include "fulgurite/core/token_place.h"
#include "fulgurite/cuda/attend_tile.h"
#include "fulgurite/cuda/dependent_launch.h"

namespace fulgurite::compressed_attention {

// Rows of fp8 caches: core/kv_row.h.
inline constexpr int kColumns = 512, kCoded = 448, kRowBytes = 576, kScaleBytes = 8, kBlockRows = 64;
inline constexpr int kTile = 64;  // keys

struct CudaRows {
  const uint8_t* data = nullptr;
  int64_t sequence = 0, block = 0;  // strides, bytes
};

struct CudaParams {
  const uint16_t* q = nullptr;
  int64_t q_token = 0, q_head = 0;  // strides
  const float* sink = nullptr;
  CudaRows window, entries;
  const int32_t* selected = nullptr;
  int64_t selected_token = 0;
  const TokenPlace* places = nullptr;
  const float *cosine = nullptr, *sine = nullptr;
  int64_t cosine_position = 0, sine_position = 0;
  uint16_t* out = nullptr;
  int64_t out_token = 0, out_head = 0;
  void* workspace = nullptr;
  int32_t tokens = 0, heads = 0;
  int32_t seen = 0, ring = 0, ratio = 0, topk = 0;  // seen: Problem::window
  int32_t splits = 1, block_heads = 64;             // of hopper_plan
  float scale = 0.0f;
};

void launch_attend(const CudaParams& params, cudaStream_t stream);
void launch_merge(const CudaParams& params, cudaStream_t stream);  // splits > 1

namespace device {

using namespace fulgurite::cuda;

// --- the workspace: sums [tokens, splits, heads, 512], then (largest, denominator) [tokens, splits, heads] ---

__device__ __forceinline__ int64_t run_of(const CudaParams& p, int token, int split, int head) {
  return (static_cast<int64_t>(token) * p.splits + split) * p.heads + head;
}
__device__ __forceinline__ float* sums_of(const CudaParams& p) { return static_cast<float*>(p.workspace); }
__device__ __forceinline__ float2* ends_of(const CudaParams& p) {
  return reinterpret_cast<float2*>(sums_of(p) + run_of(p, p.tokens, 0, 0) * kColumns);
}

// --- the end of a head ---

// 1 / l, the sink among it.
__device__ __forceinline__ float inverse_of(float denominator, float largest, float sink) {
  const float weight = sink == minus_infinity() ? 0.0f : expf(__fsub_rn(sink, largest));
  return __frcp_rn(__fadd_rn(denominator, weight));
}

// Back by the position's angle: pair i of the rotated columns.
__device__ __forceinline__ void rotate_back(const CudaParams& p, int position, int i, float& a, float& b) {
  const float c = __ldg(p.cosine + position * p.cosine_position + i),
              s = __ldg(p.sine + position * p.sine_position + i);
  const float first = __fadd_rn(__fmul_rn(a, c), __fmul_rn(b, s));
  b = __fsub_rn(__fmul_rn(b, c), __fmul_rn(a, s));
  a = first;
}

}  // namespace device
}  // namespace fulgurite::compressed_attention
