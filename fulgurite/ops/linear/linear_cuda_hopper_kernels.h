#pragma once
// What the kernels of the fp8 linear share: where the activations' codes lie, how K is dealt, the copy engine's
// maps, and the promotion's scales.

#include <algorithm>

#include "fulgurite/core/fp8.h"
#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/fragment.h"
#include "fulgurite/cuda/ring.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/cuda/wgmma.h"
#include "fulgurite/ops/linear/linear_cuda_hopper.h"

namespace fulgurite::linear::hopper {

using namespace fulgurite::cuda;

inline constexpr int kBlock = 128;  // columns of a scale, rows of a weight's scale
// Blocks of a cluster that have the same tokens and neighbouring rows of the weight, and copy a share of the tokens
// for each other: 1 or 2. 2 has the same bits; its time is not known (docs/gpu_linear.md).
inline constexpr int kNeighbours = 2;

// All say what went wrong. Few: up to 128 tokens. Fused: a product that quantizes the activations itself.
bool fuses(const Params& params);
cudaError_t launch_fused(const Params& params, cudaStream_t stream);
cudaError_t launch_few(const Params& params, bool dependent, cudaStream_t stream);
cudaError_t launch_tiles(const Params& params, bool dependent, cudaStream_t stream);

// The activations in the workspace. Tokens are rounded up, so that a tile's can be copied whole; those beyond the
// last are not written, and nothing that is kept is made of them.
struct Coded {
  uint8_t* codes;  // [coded_tokens, in]
  float* scales;   // [ceil(in / 128), scale_stride]
  int64_t scale_stride;
};
__host__ __device__ inline Coded coded(const Params& params) {
  uint8_t* const codes = static_cast<uint8_t*>(params.workspace);
  const int64_t bytes = (coded_tokens(params.tokens) * params.in + 255) / 256 * 256;
  return {codes, reinterpret_cast<float*>(codes + bytes), (params.tokens + 255) / 256 * 256};
}

// The blocks of columns of a part of K: SumOrder::part_of with step 0.
struct Part {
  int first, blocks;
};
__device__ inline Part part_of(int in, int part, int parts) {
  const int all = (in + kBlock - 1) / kBlock, each = (all + parts - 1) / parts;
  return {part * each, min(max(all - part * each, 0), each)};
}

struct Maps {
  CUtensorMap weight, x;
};
// Boxes of 128 columns of so many rows of the weight, or tokens.
inline cudaError_t make_maps(const Params& params, unsigned rows, unsigned tokens, Maps* maps) {
  const auto matrix = [&](const uint8_t* data, int count, int64_t stride, unsigned box) {
    const auto in = static_cast<uint64_t>(params.in), all = static_cast<uint64_t>(count),
               step = static_cast<uint64_t>(stride);
    return ByteTensor{data, {in, all, 1}, {step, step * all}, box};
  };
  const cudaError_t error =
      make_map(matrix(params.weight, params.out, params.weight_stride, rows), &maps->weight);
  if (error != cudaSuccess) return error;
  return make_map(
      matrix(coded(params).codes, static_cast<int>(coded_tokens(params.tokens)), params.in, tokens),
      &maps->x);
}

// The scales of a row of the weight's blocks, one after another: the lanes of a warp hold 32, and the 32 after
// them are under way, as they are stored: nothing is done with them before they are needed.
struct WeightScales {
  const Params& params;
  int first, blocks;  // of the part of K
  float held = 0.0f;
  uint32_t next = 0;

  // Of the row that `row` lies in, from `block` of the part on; past the end nothing.
  __device__ uint32_t load(int row, int block) const {
    const int at = block + static_cast<int>(threadIdx.x) % 32;
    if (at >= blocks) return 0;
    const int64_t index = row / kBlock * params.scale_stride + first + at;
    return params.exponents != nullptr ? __ldg(params.exponents + index)
                                       : __float_as_uint(__ldg(params.scale + index));
  }
  __device__ float value(uint32_t stored) const {
    return params.exponents != nullptr ? to_float(e8m0{static_cast<uint8_t>(stored)})
                                       : __uint_as_float(stored);
  }
  __device__ void begin(int row) { next = load(row, 0); }
  // `row_after` follows `row`; none: below zero.
  __device__ float take(int row, int row_after, int block) {
    if (block % 32 == 0) {
      held = value(next);
      if (block + 32 < blocks) {
        next = load(row, block + 32);
      } else if (row_after >= 0) {
        next = load(row_after, 0);
      }
    }
    return __shfl_sync(~0u, held, block % 32);
  }
};

// partial = 64 rows of A times N rows of B over 128 columns, begun here; waited for by promoted sums.
template <int N>
__device__ __forceinline__ void begin_partial(float (&partial)[N / 2], uint64_t a, uint64_t b) {
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < kBlock / 32; ++k) WgmmaE4m3<N>::multiply(partial, a + 2 * k, b + 2 * k, k > 0);
  wgmma_commit();
}

}  // namespace fulgurite::linear::hopper
