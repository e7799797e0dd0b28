#pragma once
// The indexer's projections on Hopper: bf16 operands, one pass over x, sums on the tensor cores.
//
// Order of K   SumOrder{kParts, 0, kPairwise} of core/tensor_core.h, for any number of tokens and any shape
//              of launch: the columns, in groups of 16, dealt to 16 parts one after another; each part is one
//              accumulator; the parts are added pairwise in fp32. A token's bits depend on nothing but its
//              row and the weights.
// Memory       no workspace; parts meet in the shared memory of a cluster of blocks, in a fixed order.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace fulgurite::indexer_projection::cuda {

inline constexpr int kParts = 16;
inline constexpr int kKeyRows = 128, kMostHeads = 64;

// Rows of x, wk and w: contiguous, 16-byte aligned, strides in elements and multiples of 8. hidden: a
// multiple of 16. heads: 1 to 64, any number without keys or with wide ones. Without keys wk is null.
//
// Wide keys: fp32 sums of key_rows rows, a multiple of 64: two matrices of any height met by one reading of x.
struct Params {
  const uint16_t* x = nullptr;  // [tokens, hidden] bf16
  int64_t x_stride = 0;
  const uint16_t* wk = nullptr;  // [128, hidden] bf16
  int64_t wk_stride = 0;
  const uint16_t* w = nullptr;  // [heads, hidden] bf16
  int64_t w_stride = 0;
  uint16_t* k = nullptr;  // [tokens, 128] bf16
  int64_t k_stride = 0;
  float* gate = nullptr;  // [tokens, heads]
  int64_t gate_stride = 0;
  int tokens = 0;
  int hidden = 0;
  int heads = 0;
  bool round_gate = false;  // gate = bf16
  bool dependent = false;   // a dependent launch (cuda/dependent_launch.h); wk and w are read before the wait
  int processors = 132;     // to spread over; no bit depends on it
  int key_rows = kKeyRows;  // of wk
  float* wide = nullptr;    // [tokens, key_rows], in the place of k
  int64_t wide_stride = 0;
};

void launch(const Params& params, cudaStream_t stream);

}  // namespace fulgurite::indexer_projection::cuda
