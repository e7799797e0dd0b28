#pragma once
// What the kernels of indexer_projection share: how K is dealt, barriers in shared memory, where a sum is
// written.

#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda.h"

namespace fulgurite::indexer_projection::cuda {

using namespace fulgurite::cuda;

inline constexpr int kGroup = 16;  // columns of an instruction

// Up to kFewTokens (few), any number (tiles). Both say what went wrong.
inline constexpr int kFewTokens = 16;
cudaError_t launch_few(const Params& params, cudaStream_t stream);
cudaError_t launch_tiles(const Params& params, cudaStream_t stream);

// The groups of a part of K: SumOrder::part_of with step 0.
struct Part {
  int column, groups;
};
__device__ inline Part part_of(int hidden, int part) {
  const int all = hidden / kGroup, each = max((all + kParts - 1) / kParts, 1);
  return {part * each * kGroup, min(max(all - part * each, 0), each)};
}

// ((p0 + p1) + (p2 + p3)) + ..., of values that are N apart.
template <int N>
__device__ inline float4 pairwise_sum(float4 (&p)[N]) {
#pragma unroll
  for (int apart = 1; apart < N; apart *= 2) {
#pragma unroll
    for (int i = 0; i + apart < N; i += 2 * apart) {
      p[i].x = __fadd_rn(p[i].x, p[i + apart].x);
      p[i].y = __fadd_rn(p[i].y, p[i + apart].y);
      p[i].z = __fadd_rn(p[i].z, p[i + apart].z);
      p[i].w = __fadd_rn(p[i].w, p[i + apart].w);
    }
  }
  return p[0];
}

// Rows of wk, which come before those of w.
__host__ __device__ inline int keys_of(const Params& params) {
  return params.wk != nullptr ? params.key_rows : 0;
}

// Row `row` of the weight, wk before w, of token t.
__device__ inline void store(const Params& params, int token, int row, float sum) {
  if (token >= params.tokens) return;
  const int head = row - keys_of(params);
  if (head < 0 && params.wide != nullptr) {
    params.wide[token * params.wide_stride + row] = sum;
  } else if (head < 0) {
    params.k[token * params.k_stride + row] = bf16_bits(sum);
  } else if (head < params.heads) {
    params.gate[token * params.gate_stride + head] = params.round_gate ? bf16_rounded(sum) : sum;
  }
}

}  // namespace fulgurite::indexer_projection::cuda
