#pragma once
// The indexer's operands on Hopper, e4m3: queries and keys in one launch, bit for bit as the reference makes
// them.
//
// Sums         the contract's doubles over ascending index. A kernel adds them as a tree and proves that the
//              rounding to fp32 cannot differ; where it might, it adds in the contract's order.
// Key cache    pages of 64 tokens: 64 x 128 codes, then 64 fp32 scales (kPageBytes); page p of sequence s is
//              block_table[s, p].

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fulgurite::indexer_prepare::cuda {

inline constexpr int kDim = 128, kRope = 64;  // of a vector; rotated dimensions, the first or the last
inline constexpr int kPageTokens = 64, kPageBytes = kPageTokens * (kDim + 4);

// Vectors are contiguous; strides in elements (bytes of codes) and multiples of 4. Rows of cosine and sine:
// 32 values, 16-byte aligned. Without keys k is null.
struct Params {
  const uint16_t* q = nullptr;  // [tokens, heads, 128] bf16
  int64_t q_token_stride = 0, q_head_stride = 0;
  uint8_t* q_codes = nullptr;  // [tokens, heads, 128]
  int64_t code_token_stride = 0, code_head_stride = 0;
  uint16_t* q_values = nullptr;  // index_quant = fp4, in the place of codes, which have its strides
  const float* gate = nullptr;   // [tokens, heads]
  int64_t gate_stride = 0;
  float* weights = nullptr;  // [tokens, heads]
  int64_t weights_stride = 0;

  const uint16_t* k = nullptr;  // [tokens, 128] bf16
  int64_t k_stride = 0;
  const float* k_weight = nullptr;  // [128], 16-byte aligned
  const float* k_bias = nullptr;
  uint8_t* key_pages = nullptr;  // [pages, kPageBytes]
  int64_t page_stride = kPageBytes;
  const int32_t* block_table = nullptr;  // [sequences, pages of one]
  int64_t block_table_stride = 0;

  const int2* places = nullptr;   // [tokens] sequence, position: core/token_place.h
  const float* cosine = nullptr;  // [positions, 32]
  const float* sine = nullptr;

  int tokens = 0;
  int heads = 0;
  float epsilon = 1e-6f;
  bool interleaved = false;   // rotary::Layout::kInterleaved, otherwise half-split
  bool rotates_last = false;  // dimensions 64 .. 127, otherwise 0 .. 63
  bool hadamard_q = true, hadamard_k = true;
  bool pow2 = true;             // index_scale = pow2, otherwise fp32
  bool round_norm = false;      // index_norm = bf16
  bool round_gate = false;      // gate = bf16, of queries without keys
  bool two_step_rsqrt = false;  // rsqrt = two_step, otherwise correct
  // A dependent launch (cuda/dependent_launch.h): places, block_table, tables and parameters are read before
  // the wait.
  bool dependent = false;
};

void launch(const Params& params, cudaStream_t stream);

}  // namespace fulgurite::indexer_prepare::cuda
