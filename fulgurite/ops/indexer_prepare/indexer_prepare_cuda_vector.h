#pragma once
// A vector of the indexer in registers. Eight lanes share one, a warp has four. Lane j holds dimensions 32m +
// 4j + e in v[m][e] (m, e = 0..3): pairs of both rotations and strides 1, 2, 32 and 64 of the Hadamard
// transform are within a lane, strides 4, 8 and 16 between lanes that differ in a bit.

#include "fulgurite/cuda/number.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cuda.h"

namespace fulgurite::indexer_prepare::cuda {

using namespace fulgurite::cuda;

inline constexpr unsigned kAll = ~0u;

using Vector = float[4][4];

__device__ inline int lane_of_vector() { return static_cast<int>(threadIdx.x) % 8; }
__device__ inline int vector_of_warp() { return static_cast<int>(threadIdx.x) % 32 / 8; }

// --- memory ---

struct Raw {  // a lane's bf16
  uint2 part[4];
};
__device__ inline void read(Raw& raw, const uint16_t* vector) {
#pragma unroll
  for (int m = 0; m < 4; ++m)
    raw.part[m] = __ldcg(reinterpret_cast<const uint2*>(vector + 32 * m + 4 * lane_of_vector()));
}
__device__ inline void widen(const Raw& raw, Vector& v) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    v[m][0] = low_bf16(raw.part[m].x);
    v[m][1] = high_bf16(raw.part[m].x);
    v[m][2] = low_bf16(raw.part[m].y);
    v[m][3] = high_bf16(raw.part[m].y);
  }
}
__device__ inline void read(Vector& v, const float* vector) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    const float4 part = __ldg(reinterpret_cast<const float4*>(vector + 32 * m + 4 * lane_of_vector()));
    v[m][0] = part.x;
    v[m][1] = part.y;
    v[m][2] = part.z;
    v[m][3] = part.w;
  }
}

__device__ inline void round(float& a, float& b) {
  const uint32_t pair = bf16_pair(a, b);
  a = low_bf16(pair);
  b = high_bf16(pair);
}
__device__ inline void round(Vector& v) {
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    round(v[m][0], v[m][1]);
    round(v[m][2], v[m][3]);
  }
}

// --- rotation ---

// Of this lane's four pairs: half-split e with (m, e) and (m + 1, e); interleaved 2m' + i with (m', 2i), (m',
// 2i + 1).
struct Turn {
  float cosine[4], sine[4];
};
__device__ inline void read_row(float (&values)[4], const float* row, bool interleaved) {
  const int j = lane_of_vector();
  if (interleaved) {
    const float2 low = __ldg(reinterpret_cast<const float2*>(row + 2 * j));
    const float2 high = __ldg(reinterpret_cast<const float2*>(row + 16 + 2 * j));
    values[0] = low.x, values[1] = low.y, values[2] = high.x, values[3] = high.y;
  } else {
    const float4 all = __ldg(reinterpret_cast<const float4*>(row + 4 * j));
    values[0] = all.x, values[1] = all.y, values[2] = all.z, values[3] = all.w;
  }
}
__device__ inline Turn turn_at(const Params& params, int position) {
  Turn turn;
  const int64_t row = static_cast<int64_t>(position) * (kRope / 2);
  read_row(turn.cosine, params.cosine + row, params.interleaved);
  read_row(turn.sine, params.sine + row, params.interleaved);
  return turn;
}

__device__ inline void rotate_pair(float& a, float& b, float c, float s) {
  const float turned = __fsub_rn(__fmul_rn(a, c), __fmul_rn(b, s));
  b = __fadd_rn(__fmul_rn(a, s), __fmul_rn(b, c));
  a = turned;
}
__device__ inline void rotate(float (&low)[4], float (&high)[4], const Turn& turn, bool interleaved) {
  if (interleaved) {
    rotate_pair(low[0], low[1], turn.cosine[0], turn.sine[0]);
    rotate_pair(low[2], low[3], turn.cosine[1], turn.sine[1]);
    rotate_pair(high[0], high[1], turn.cosine[2], turn.sine[2]);
    rotate_pair(high[2], high[3], turn.cosine[3], turn.sine[3]);
  } else {
#pragma unroll
    for (int e = 0; e < 4; ++e) rotate_pair(low[e], high[e], turn.cosine[e], turn.sine[e]);
  }
#pragma unroll
  for (int e = 0; e < 4; e += 2) {
    round(low[e], low[e + 1]);
    round(high[e], high[e + 1]);
  }
}
__device__ inline void rotate(Vector& v, const Turn& turn, const Params& params) {
  if (params.rotates_last) {
    rotate(v[2], v[3], turn, params.interleaved);
  } else {
    rotate(v[0], v[1], turn, params.interleaved);
  }
}

}  // namespace fulgurite::indexer_prepare::cuda
