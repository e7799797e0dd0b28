#pragma once
// Of the product of few tokens: what a block is, what lies in its shared memory, and the thread that copies.

#include "fulgurite/ops/linear/linear_cuda_hopper_kernels.h"

namespace fulgurite::linear::hopper {
inline constexpr int kRows = 64, kRowWarps = 4;
inline constexpr int kMostFusedBlocks = 16;  // of a part of K

// A cluster's block of rank r does part r % kParts of K of tile r / kParts of its rows.
// kFuses: a block quantizes its part of the one token itself, and keeps it.
template <int kTokensOfTile, int kPartsOfK, int kTilesOfCluster, int kStagesOfRing, bool kFusesBoth = false>
struct Few {
  static constexpr int kTokens = kTokensOfTile, kParts = kPartsOfK, kTiles = kTilesOfCluster,
                       kStages = kStagesOfRing;
  static constexpr int kBlocks = kParts * kTiles;
  static constexpr bool kFuses = kFusesBoth, kShares = kTiles > 1;
  static constexpr int kGroups = kTokens >= 16 ? 2 : 1, kWarps = kRowWarps * kGroups,
                       kThreads = 32 * (kWarps + 1);
  static constexpr int kTokensOfGroup = kTokens / kGroups, kSums = kTokensOfGroup / 2;
  static constexpr int kFragments = kTokens / 8 * kRowWarps;  // of 16 rows and 8 tokens
  static constexpr int kOwned = kFragments / kParts;          // that a block adds and writes
  static constexpr int kXBlocks = kFuses ? kMostFusedBlocks : kStages;
  static constexpr int kAtOnce = kParts > 1 ? 2 : 1;  // blocks on a processor
  static constexpr uint32_t kWeightBytes = kRows * kBlock, kXBytes = kTokens * kBlock,
                            kScaleBytes = kTokens * sizeof(float);
  static constexpr uint32_t kStageBytes = kWeightBytes + (kFuses ? 0 : kXBytes + kScaleBytes);
  // Stages asked for before the predecessor is waited for: activations queue behind them.
  static constexpr int kAhead = kFuses ? kStages : std::min(kStages, 4);
};

template <class T>
struct Shared {
  alignas(1024) uint8_t weight[T::kStages][T::kWeightBytes];
  alignas(1024) uint8_t x[T::kXBlocks][T::kXBytes];
  alignas(16) float scale[T::kXBlocks][T::kTokens];
  float4 parts[T::kParts > 1 ? T::kParts : 0][T::kOwned][32];
  Barrier full[T::kStages], empty[T::kStages], received;
};

// Where a block stands in its cluster.
template <class T>
struct Rank {
  int part, tile;
  __device__ explicit Rank(int rank) : part(rank % T::kParts), tile(rank / T::kParts) {}
  __device__ static int of(int part, int tile) { return tile * T::kParts + part; }
};

// The tiles of a block; of a cluster's blocks all have as many, the last perhaps beyond the last row.
template <class T>
struct Turns {
  int first, step, count;
  __device__ Turns(const Params& params, Rank<T> rank) {
    const int cluster = static_cast<int>(blockIdx.x) / T::kBlocks,
              clusters = static_cast<int>(gridDim.x) / T::kBlocks;
    const int all = (params.out + kRows * T::kTiles - 1) / (kRows * T::kTiles);
    first = cluster * T::kTiles + rank.tile;
    step = clusters * T::kTiles;
    count = (all - cluster + clusters - 1) / clusters;
  }
};

// --- the thread that copies ---

template <class T>
struct Copier {
  Shared<T>& shared;
  const Maps& maps;
  const Params& params;
  Rank<T> rank;
  Part part;
  Coded from;
  uint64_t once, kept;  // weights are read once, activations by every block

  __device__ void copy_weight(int tile, int block, int stage) const {
    Barrier* const full = &shared.full[stage];
    barrier_expect(full, T::kStageBytes);
    tensor_load(shared.weight[stage], &maps.weight, (part.first + block) * kBlock, tile * kRows, 0, full,
                once);
  }
  __device__ void copy_x(int block, int stage) const {
    Barrier* const full = &shared.full[stage];
    const int at = part.first + block;
    if constexpr (T::kShares) {
      constexpr int kShare = T::kTokens / T::kTiles;
      uint16_t blocks = 0;
#pragma unroll
      for (int tile = 0; tile < T::kTiles; ++tile) blocks |= 1 << Rank<T>::of(rank.part, tile);
      tensor_load_multicast(shared.x[stage] + rank.tile * kShare * kBlock, &maps.x, at * kBlock,
                            rank.tile * kShare, 0, full, blocks, kept);
    } else {
      tensor_load(shared.x[stage], &maps.x, at * kBlock, 0, 0, full, kept);
    }
    bulk_load(shared.scale[stage], from.scales + at * from.scale_stride, T::kScaleBytes, full, kept);
  }
};

// A block of K of a tile.
struct Cursor {
  int tile, block = 0;
  __device__ void advance(int blocks, int step) {
    if (++block < blocks) return;
    block = 0;
    tile += step;
  }
};

template <class T>
__device__ Copier<T> copier_of(Shared<T>& shared, const Maps& maps, const Params& params, Rank<T> rank) {
  return {shared,
          maps,
          params,
          rank,
          part_of(params.in, rank.part, T::kParts),
          coded(params),
          l2_policy(L2Policy::kEvictFirst),
          l2_policy(L2Policy::kNormal)};
}

// Of the first stages, before anything is waited for.
template <class T>
__device__ void copy_ahead(const Copier<T>& copier) {
  const Turns<T> turns(copier.params, copier.rank);
  const int blocks = copier.part.blocks, ahead = min(turns.count * blocks, T::kAhead);
  Cursor at{turns.first};
#pragma unroll 1
  for (int use = 0; use < ahead; ++use, at.advance(blocks, turns.step))
    copier.copy_weight(at.tile, at.block, use);
}

template <class T>
__device__ void copy_all(const Copier<T>& copier) {
  const Turns<T> turns(copier.params, copier.rank);
  const int blocks = copier.part.blocks, uses = turns.count * blocks;
  if constexpr (!T::kFuses) wait_for_predecessor();
  Cursor at{turns.first};
  Place<T::kStages> place;
#pragma unroll 1
  for (int use = 0; use < uses; ++use, at.advance(blocks, turns.step), place.advance()) {
    if (use >= T::kStages) barrier_wait(&copier.shared.empty[place.stage], place.parity ^ 1);
    if (use >= T::kAhead) copier.copy_weight(at.tile, at.block, place.stage);
    if constexpr (!T::kFuses) copier.copy_x(at.block, place.stage);
  }
  if constexpr (T::kShares) wait_for_releases(copier.shared.empty, uses, place);
}

}  // namespace fulgurite::linear::hopper
