#pragma once
// The shapes of indexer_projection's tiles, what lies in shared memory, and the order of chunks.

#include <cuda.h>

#include "fulgurite/ops/indexer_projection/indexer_projection_cuda_kernels.h"

namespace fulgurite::indexer_projection::cuda {

inline constexpr int kChunk = 64;  // columns of a copy: 128 bytes a row
inline constexpr int kChunkGroups = kChunk / kGroup;
inline constexpr int kRowsOfMultiply = 64;
inline constexpr int kRowBytes = kChunk * 2;

// A tile of Rows of the weight and Tokens; Blocks of a cluster share K; Stages chunks of both lie in shared
// memory.
template <int Rows, int Tokens, int Blocks, int Stages>
struct Tile {
  static constexpr int kRows = Rows, kTokens = Tokens, kBlocks = Blocks, kStages = Stages;
  static constexpr int kRowBlocks = kRows / kRowsOfMultiply;
  static constexpr int kTokenBlocks = kRows == 64 && kTokens > 64 ? 2 : 1;
  static constexpr int kMultiplyTokens = kTokens / kTokenBlocks;
  static constexpr int kSums = kMultiplyTokens / 2;             // of a thread
  static constexpr int kWarps = 4 * kRowBlocks * kTokenBlocks;  // that multiply; one more copies
  static constexpr bool kTrades = kWarps == 12;                 // registers, which only whole warpgroups can
  static constexpr int kThreads = kTrades ? 512 : 32 * (kWarps + 1);
  static constexpr int kPartsOfBlock = kParts / kBlocks;
  static constexpr int kFragmentsOfWarp = kMultiplyTokens / 8;  // of 16 rows and 8 tokens, 512 bytes
  static constexpr int kOwned = kWarps * kFragmentsOfWarp / kBlocks;
  static constexpr int kWeightBytes = kRows * kRowBytes, kXBytes = kTokens * kRowBytes;
  static constexpr int kStageBytes = kWeightBytes + kXBytes;
  static_assert(kPartsOfBlock * kBlocks == kParts && kOwned * kBlocks == kWarps * kFragmentsOfWarp);
};

template <class T>
struct Shared {
  uint8_t stages[T::kStages][T::kStageBytes];  // weight, then x
  float4 parts[T::kBlocks][T::kOwned][32];
  uint64_t full[T::kStages], empty[T::kStages];
  uint64_t received;  // the parts of all blocks, of one tile
  uint64_t may_send;  // all blocks have read those of the tile before
};

struct Maps {
  CUtensorMap x, wk, w;
};

// A place in the ring of stages.
template <class T>
struct Place {
  int stage = 0;
  uint32_t parity = 0;
  __device__ void advance() {
    if (++stage < T::kStages) return;
    stage = 0;
    parity ^= 1;
  }
};

__device__ inline int chunks_of(int groups) { return (groups + kChunkGroups - 1) / kChunkGroups; }

template <class T>
__device__ int chunks_of_block(int hidden, int rank) {
  int chunks = 0;
  for (int i = 0; i < T::kPartsOfBlock; ++i)
    chunks += chunks_of(part_of(hidden, rank * T::kPartsOfBlock + i).groups);
  return chunks;
}

}  // namespace fulgurite::indexer_projection::cuda
