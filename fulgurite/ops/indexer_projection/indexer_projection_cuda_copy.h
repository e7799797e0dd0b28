#pragma once
// The thread of a block that keeps its stages filled.

#include "fulgurite/cuda/tma.h"
#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_tile.h"

namespace fulgurite::indexer_projection::cuda {

// What one block copies: `rows` boxes of the weight from row `row` of a matrix on, and x.
struct Source {
  const CUtensorMap* weight;
  const CUtensorMap* x;
  int row;
};
// Of row block i of the block's.
template <class T>
__device__ Source source_of(const Maps& maps, int keys, int i) {
  const int row = (static_cast<int>(blockIdx.y) * T::kRowBlocks + i) * kRowsOfMultiply;
  return {row < keys ? &maps.wk : &maps.w, &maps.x, row < keys ? row : row - keys};
}

// A value that is kept: of an address in shared memory the compiler would rather ask the processor again each
// time.
__device__ inline uint32_t kept(uint32_t value) {
  asm volatile("mov.u32 %0, %0;" : "+r"(value));
  return value;
}

template <class T>
struct Copier {
  uint32_t stages, full, empty;  // addresses
  Source sources[T::kRowBlocks];
  int hidden, first_part;

  // The weight's chunk of a stage, and what its barrier is to wait for in all.
  __device__ void copy_weight(int column, int stage) const {
    const uint32_t barrier = full + stage * 8, to = stages + stage * T::kStageBytes;
    barrier_expect(barrier, T::kStageBytes);
#pragma unroll
    for (int i = 0; i < T::kRowBlocks; ++i)
      tensor_load(to + i * (kRowsOfMultiply * kRowBytes), *sources[i].weight, column, sources[i].row,
                  barrier);
  }
  __device__ void copy_x(int column, int tile, int stage) const {
    tensor_load(stages + stage * T::kStageBytes + T::kWeightBytes, *sources[0].x, column, tile * T::kTokens,
                full + stage * 8);
  }
  // Of the first stages, before the predecessor is waited for; how many.
  __device__ int copy_weights_ahead() const {
    int stage = 0;
#pragma unroll 1
    for (int i = 0; i < T::kPartsOfBlock; ++i) {
      const Part part = part_of(hidden, first_part + i);
#pragma unroll 1
      for (int group = 0; group < part.groups && stage < T::kStages; group += kChunkGroups, ++stage)
        copy_weight(part.column + group * kGroup, stage);
    }
    return stage;
  }
  __device__ void copy_tiles(int tiles, int ahead) const {
    Place<T> place;
    int use = 0;
#pragma unroll 1
    for (int tile = static_cast<int>(blockIdx.x) / T::kBlocks; tile < tiles;
         tile += static_cast<int>(gridDim.x) / T::kBlocks) {
#pragma unroll 1
      for (int i = 0; i < T::kPartsOfBlock; ++i) {
        const Part part = part_of(hidden, first_part + i);
        int column = part.column;
#pragma unroll 1
        for (int left = part.groups; left > 0; left -= kChunkGroups, column += kChunk, ++use) {
          if (use >= T::kStages) barrier_wait(empty + place.stage * 8, place.parity ^ 1);
          if (use >= ahead) copy_weight(column, place.stage);
          copy_x(column, tile, place.stage);
          place.advance();
        }
      }
    }
  }
};

// By one thread.
template <class T>
__device__ void copy_all(Shared<T>& shared, const Maps& maps, const Params& params, int rank, int tiles) {
  Copier<T> copier{kept(shared_address(shared.stages)),
                   kept(shared_address(shared.full)),
                   kept(shared_address(shared.empty)),
                   {},
                   params.hidden,
                   rank * T::kPartsOfBlock};
#pragma unroll
  for (int i = 0; i < T::kRowBlocks; ++i) copier.sources[i] = source_of<T>(maps, keys_of(params), i);
  const int ahead = params.dependent ? copier.copy_weights_ahead() : 0;
  wait_for_predecessor();
  copier.copy_tiles(tiles, ahead);
}

}  // namespace fulgurite::indexer_projection::cuda
