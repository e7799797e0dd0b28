#pragma once
// What the kernels of bf16_product.h share: boxes of the copy engine, how K is dealt, and where results go.

#include "fulgurite/cuda/bf16_product.h"
#include "fulgurite/cuda/cluster.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/fragment.h"
#include "fulgurite/cuda/ring.h"
#include "fulgurite/cuda/tma.h"
#include "fulgurite/cuda/wgmma_bf16.h"

namespace fulgurite::cuda {

inline constexpr int kBoxColumns = 64, kBoxBytes = 128;  // of a row of a box
inline constexpr int kRowsOfMultiply = 64, kColumnsOfMultiply = 16;

cudaError_t launch_few(const Bf16Product& product, cudaStream_t stream);
cudaError_t launch_tiles(const Bf16Product& product, cudaStream_t stream);

struct Bf16Maps {
  CUtensorMap weight, x;
};
// Boxes of so many rows of the weight, or tokens.
inline cudaError_t make_maps(const Bf16Product& p, unsigned rows, unsigned tokens, Bf16Maps* maps) {
  const auto tensor = [&](const uint16_t* data, int count, int64_t stride, int64_t group_stride,
                          unsigned box) {
    const auto bytes = [](int64_t elements) { return static_cast<uint64_t>(elements) * sizeof(uint16_t); };
    const auto all = static_cast<uint64_t>(count), groups = static_cast<uint64_t>(p.groups);
    return ByteTensor{data,
                      {bytes(p.in), all, groups},
                      {bytes(stride), p.groups > 1 ? bytes(group_stride) : bytes(stride) * all},
                      box};
  };
  const cudaError_t error =
      make_map(tensor(p.weight, p.out, p.weight_stride, p.weight_group_stride, rows), &maps->weight);
  if (error != cudaSuccess) return error;
  return make_map(tensor(p.x, p.tokens, p.x_stride, p.x_group_stride, tokens), &maps->x);
}

// Boxes of columns, of all of K and of each of its parts.
__host__ __device__ inline int boxes_of(const Bf16Product& p) {
  return (p.in + kBoxColumns - 1) / kBoxColumns;
}
__host__ __device__ inline int boxes_of_part(const Bf16Product& p) {
  return (boxes_of(p) + p.parts - 1) / p.parts;
}

// sum += 64 rows of A times N rows of B over a box, begun here.
template <int N>
__device__ __forceinline__ void multiply_box(float (&sum)[N / 2], uint64_t a, uint64_t b) {
#pragma unroll
  for (int k = 0; k < kBoxColumns / kColumnsOfMultiply; ++k)
    WgmmaBf16<N>::template multiply<Lie::kAlong, Lie::kAlong>(sum, a + 2 * k, b + 2 * k, 1);
}

}  // namespace fulgurite::cuda
