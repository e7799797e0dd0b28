#pragma once
// Sums of a tile of 64 tokens and 128 rows of a weight, as a warpgroup's thread holds them.

namespace fulgurite::cuda {

struct TileSums {
  float acc[64] = {};
};

// Sums of a part of K that is done are added to those before it.
template <int kHalves>
__device__ void add_part(bool is_first, TileSums (&sums)[kHalves], TileSums (&total)[kHalves]) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half) {
#pragma unroll
    for (int i = 0; i < 64; ++i) {
      total[half].acc[i] = is_first ? sums[half].acc[i] : __fadd_rn(total[half].acc[i], sums[half].acc[i]);
      sums[half].acc[i] = 0.0f;
    }
  }
}

}  // namespace fulgurite::cuda
