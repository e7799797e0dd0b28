#pragma once
// Where a warpgroup's result goes: D[64, N] of fp32 (wgmma.h) to rows of bf16 in memory. A fragment is four
// registers of a thread: with g = lane / 4 and t = lane % 4, rows g and g + 8 of a warp's 16 at columns 2t and
// 2t + 1 of 8.

#include <cstdint>

#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {

// Pairs of row g at columns 2t, 2t + 1 become pairs of column g at rows 2t, 2t + 1.
__device__ inline uint32_t transposed(uint32_t pair) {
  uint32_t result;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

// The fragment's columns are rows in memory: D's column c at `to` + c * stride, of which those below `columns`
// are written, and D's rows, those below `rows` (even), one after another. Pairs are written at once: `to` at a
// multiple of 4 bytes, an even stride.
__device__ inline void store_transposed(uint16_t* to, int64_t stride, int columns, int rows, const float* d) {
  const int lane = static_cast<int>(threadIdx.x) % 32, column = lane / 4, row = lane % 4 * 2;
  const uint32_t upper = transposed(bf16_pair(d[0], d[1])), lower = transposed(bf16_pair(d[2], d[3]));
  if (column >= columns) return;
  uint16_t* const at = to + column * stride + row;
  if (row < rows) *reinterpret_cast<uint32_t*>(at) = upper;
  if (row + 8 < rows) *reinterpret_cast<uint32_t*>(at + 8) = lower;
}

// Four words of each of four neighbouring lanes change places: lane t gets the t-th of each, in order of lanes.
__device__ inline uint4 traded(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
  const auto trade = [](uint32_t& first, uint32_t& second, bool gives_first, int apart) {
    const uint32_t got = __shfl_xor_sync(~0u, gives_first ? first : second, apart);
    (gives_first ? first : second) = got;
  };
  trade(a, b, odd, 1);
  trade(c, d, odd, 1);
  trade(a, c, upper, 2);
  trade(b, d, upper, 2);
  return {a, b, c, d};
}

// Two fragments side by side, columns 0 .. 7 and 8 .. 15, as above, eight rows at once: `to` at a multiple of 16
// bytes, rows and the stride multiples of 8.
__device__ inline void store_pair_transposed(uint16_t* to, int64_t stride, int columns, int rows,
                                             const float* d) {
  const auto part = [&](int of) { return transposed(bf16_pair(d[of], d[of + 1])); };
  const uint4 eight = traded(part(0), part(2), part(4), part(6));
  const int lane = static_cast<int>(threadIdx.x) % 32, column = lane / 4 + lane % 4 / 2 * 8,
            row = lane % 2 * 8;
  if (column < columns && row < rows) *reinterpret_cast<uint4*>(to + column * stride + row) = eight;
}

}  // namespace fulgurite::cuda
