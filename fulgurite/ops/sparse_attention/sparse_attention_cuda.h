#pragma once
// Attention over selected latent rows on Hopper (sm_90a), decode and prefill: latent 512, rope 64; 8, 16, 32, 64
// or 128 heads. A kernel for blocks of few heads (8, 16, 32), one for 64, and a second one where keys are split.
//
//   q         [tokens, heads, 512]   bf16; token and head strides free, multiples of 8 elements
//   q_rope    [tokens, heads, 64]    bf16; the same
//   rows      fp8: 656 bytes (512 e4m3 codes, 4 f32 scales, powers of two, 64 bf16); bf16: 1152 bytes. Row of a
//             slot, 16-byte aligned:
//             rows + places[token].sequence * sequence_stride (with places) + slot * row_stride
//   selected  [tokens, topk]         i32: slots, at least one, then -1
//   out       [tokens, heads, 512]   bf16; strides as of q
//   workspace of hopper_workspace_bytes, 128-byte aligned; nothing is kept in it
//
// Score      one accumulation on the tensor core over latent, then rope, in groups of 16 (core/tensor_core.h),
//            times scale in fp32: the bits of the contract with mma = hopper.
// Split      the list's ceil(count / 64) tiles are dealt to `splits` runs of whole tiles: run s has tiles
//            [n s / splits, n (s + 1) / splits). A run is the contract's running softmax over its tiles of 64, P
//            in bf16, unrounded denominator, from m = -infinity: m_s, l_s, O_s. Where splits > 1: m = the largest
//            m_s, w_s = e(m_s - m), l = fma(l_s, w_s, l) and O = fma(O_s, w_s, O), ascending, from 0.
//            out = bf16(O * (1 / l)), 1 / l rounded once.
// e(x)       ex2.approx.ftz(x * fp32(log2 e)), x <= 0: within 2^-22 + 2^-23 |x|, relative; below 2^-126 it is 0.
// l_s        fp32: a sum for each of the lanes that share a head (4 of many heads, 32 of few) over its keys,
//            ascending from tile to tile, then pairwise.
// Bits       depend on the list, on q, on the rows, on `splits` and on block_heads being 64 or less (l_s); not on
//            the batch, on slots, or on where and when blocks run.
// NaN        as the contract: also a NaN code or scale of a selected row.
//
// Bound      u = 2^-24; n entries; p_j the exact weights (sum 1) of the scores, which both sides have alike;
//            x_j = (largest score) - s_j; T = tiles + splits; M = sum_j p_j |row_j[c]|. |out - exact| is at most a
//            rounding to bf16 and
//              sum_j p_j |row_j[c]| 2^-8
//                P to bf16, against the maximum of its own run so far
//            + sum_j p_j (|row_j[c]| + |exact|) 2^-21 (T + 2 + x_j)
//                e, once an entry, a tile and a split, whose arguments add up to x_j; in sum and denominator
//            + (M + |exact|) (19 n / 16 + 8 T + 32) u
//                a step of 16 truncates 17 terms to 2^-25 of the largest exponent and its sum to fp32;
//                rescaling and merging round once or twice each
//            Against another plan of tiles (the reference: one run) P is rounded on both sides, 2^-7.

#include <cuda_runtime_api.h>

#include <cstdint>

#include "fulgurite/core/token_place.h"

namespace fulgurite::sparse_attention {

inline constexpr int kCudaLatent = 512, kCudaRope = 64, kCudaTile = 64, kCudaMostSplits = 32;
inline constexpr int kCudaFp8RowBytes = 656, kCudaBf16RowBytes = 1152;

enum class CudaRows { kFp8, kBf16 };

struct CudaParams {
  const uint16_t* q = nullptr;
  int64_t q_token = 0, q_head = 0;  // strides
  const uint16_t* q_rope = nullptr;
  int64_t q_rope_token = 0, q_rope_head = 0;
  CudaRows form = CudaRows::kFp8;
  const uint8_t* rows = nullptr;
  int64_t row_stride = kCudaFp8RowBytes;  // bytes, below 2^32
  const TokenPlace* places = nullptr;     // optional
  int64_t sequence_stride = 0;            // bytes
  const int32_t* selected = nullptr;
  int64_t selected_stride = 0;
  uint16_t* out = nullptr;
  int64_t out_token = 0, out_head = 0;
  float* scores = nullptr;  // optional, for checks: [tokens, heads, topk], as far as the lists
  void* workspace = nullptr;
  int32_t tokens = 0;
  int32_t heads = 0;
  int32_t topk = 0;
  int32_t splits = 1;       // of hopper_plan (sparse_attention_rules.h), or any of 1 .. kCudaMostSplits
  int32_t block_heads = 0;  // of hopper_plan, or any of 8, 16, 64 that divides heads; 0: the most
  float scale = 0.0f;
  bool dependent =
      false;  // a programmatic launch: may begin while its predecessor ends, reads nothing before
};

// Throws Error{kPlan} of shapes and alignments that it does not take, Error{kDevice} of launches that fail. A captured
// launch may be replayed with other contents of every buffer.
void cuda_launch(const CudaParams& params, cudaStream_t stream);

}  // namespace fulgurite::sparse_attention
