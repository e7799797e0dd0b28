#pragma once
// A block of 64 heads (sparse_attention_cuda_many.cu): its shared memory, and how rows come into it.

#include "fulgurite/cuda/cluster.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda_parts.h"

namespace fulgurite::sparse_attention::device {

constexpr int kHeads = 64;  // of a block
constexpr int kGroupThreads = 128, kThreads = 3 * kGroupThreads;
constexpr int kHalfPieces = 4;                                     // of 64 columns
constexpr int kOutPitch = 256 * 2 + 16, kRunPitch = 256 * 4 + 32;  // of rows of results in shared memory

enum Name : uint32_t { kWeightsFull = 1, kTogether, kScoresAlone, kRowsAlone, kCounted };

struct Many {
  Tile queries;
  Tile keys[2];
  alignas(1024) uint8_t weights[kHeads * 128];  // P, bf16
  float rescale[kHeads];                        // of the sums before the tile
  float inverse[kHeads];                        // 1 / l
  Barrier full[2][2], empty[2][2];              // [tile][half]
  Barrier weights_read;                         // and their factors, by `right`
  int counts[kGroupThreads / 32];
};

// The n-th tile of a block lies in keys[n % 2]; a barrier's phase for it.
__device__ __forceinline__ uint32_t phase_of(int n) { return static_cast<uint32_t>(n) / 2 % 2; }

// How rows come: by kBlocks blocks of a cluster together. And when `right` begins with a tile: kLate, when the next
// scores are there; or with `scores`.
template <int kBlocks_, bool kLate_>
struct Way {
  static constexpr int kBlocks = kBlocks_;
  static constexpr bool kLate = kLate_;
  static constexpr int kRows = 16 / kBlocks;  // of a tile, a warp
};

// A warp's part of filling the n-th tile: rows [first, first + kRows) of it.
template <class W>
struct Filling {
  static constexpr int kBlocks = W::kBlocks, kRows = W::kRows;
  Many& s;
  int first, peer;

  __device__ __forceinline__ explicit Filling(Many& shared) : s(shared) {
    const int rank = kBlocks == 1 ? 0 : static_cast<int>(cluster_rank());
    first = rank * 32 + (static_cast<int>(threadIdx.x) / 32 - 8) * kRows;
    peer = rank ^ 1;
  }
  __device__ __forceinline__ void wait(int n, int half) const {
    barrier_wait(&s.empty[n % 2][half], phase_of(n) ^ 1);
  }

  // After the last of `tiles`: the other block gives tiles back here, and reads none of this one's any more. A
  // block that ended before would leave it a barrier that is no more.
  __device__ __forceinline__ void wait_for_readers(int tiles) const {
    for (int n = tiles; n < tiles + 2; ++n)
      for (int half = 0; half < 2; ++half) wait(n, half);
  }

  // The rows are written: they go to the other block as well, whose own rows this block's barrier counts in
  // bytes.
  __device__ __forceinline__ void publish(int n, int half) const {
    shared_writes_fence();
    __syncwarp();
    const int lane = static_cast<int>(threadIdx.x) % 32, pieces = half == 0 ? kHalfPieces + 1 : kHalfPieces;
    Barrier* const full = &s.full[n % 2][half];
    if constexpr (kBlocks == 2) {
      const int piece = lane == kHalfPieces ? kPieces - 1 : half * kHalfPieces + lane;
      if (lane < pieces) send_rows(s.keys[n % 2].pieces[piece] + first * 128, full);
    }
    if (lane == 0) {
      if (kBlocks == 2 && threadIdx.x == 2 * kGroupThreads)
        barrier_expect(full, static_cast<uint32_t>(pieces * kPiece / 2));
      else
        barrier_arrive(full);
    }
  }

 private:
  __device__ __forceinline__ void send_rows(const uint8_t* rows, const Barrier* full) const {
    const uint32_t from = shared_address(rows), rank = static_cast<uint32_t>(peer);
    copy_to_block(address_in(from, rank), from, kRows * 128, address_in(shared_address(full), rank));
  }
};

// Rows are under way in registers, half a tile to a tile ahead.
template <class W>
__device__ __forceinline__ void bring_fp8(const CudaParams& p, const Work& w, Many& s) {
  constexpr int kRows = W::kRows;
  const Rows rows(p, w);
  const Filling<W> filling(s);
  const auto slot_of = [&](int n) {
    return rows.near_slot((w.first + n) * kCudaTile + filling.first + static_cast<int>(threadIdx.x) % kRows);
  };
  const int tiles = w.last - w.first;
  if (tiles == 0) return;
  Fp8Half<0, kRows> left;
  Fp8Half<1, kRows> right;
  int slot = slot_of(0);
  left.load(rows, slot);
  int next = slot_of(1);
  right.load(rows, slot);
  for (int n = 0; n < tiles; ++n) {
    const auto of_left = left.factors();
    filling.wait(n, 0);
    left.store(s.keys[n % 2], filling.first, of_left);
    filling.publish(n, 0);
    const auto of_right = right.factors();
    slot = next;
    left.load(rows, slot);
    next = slot_of(n + 2);
    filling.wait(n, 1);
    right.store(s.keys[n % 2], filling.first, of_right);
    filling.publish(n, 1);
    right.load(rows, slot);
  }
}

// Eight lanes share a row of bf16, four rows of a warp at a time. `slot`: of row lane % kRows.
template <int kRows>
__device__ __forceinline__ void copy_bf16_half(const Rows& rows, int slots, int first, int half, Tile& tile) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
  for (int g = 0; g < kRows / 4; ++g) {
    const int row = first + 4 * g + lane / 8, slot = __shfl_sync(~0u, slots, 4 * g + lane / 8);
    const int at = row * 128 + (lane % 8 ^ row % 8) * 16;
    const uint8_t* const from = rows.row(slot) + lane % 8 * 16;
    const auto piece = [&](int i) {
      if (slot >= 0)
        copy16(tile.pieces[i] + at, from + i * 128);
      else
        write16(tile.pieces[i] + at, {});
    };
#pragma unroll
    for (int i = 0; i < kHalfPieces; ++i) piece(kHalfPieces * half + i);
    if (half == 0) piece(kPieces - 1);
  }
  copies_commit();
}

template <class W>
__device__ __forceinline__ void bring_bf16(const CudaParams& p, const Work& w, Many& s) {
  constexpr int kRows = W::kRows;
  const Rows rows(p, w);
  const Filling<W> filling(s);
  const auto slot_of = [&](int n) {
    return rows.slot((w.first + n) * kCudaTile + filling.first + static_cast<int>(threadIdx.x) % kRows);
  };
  int slot = slot_of(0);
  for (int n = 0; n < w.last - w.first; ++n) {
    const int next = slot_of(n + 1);
    filling.wait(n, 0);
    copy_bf16_half<kRows>(rows, slot, filling.first, 0, s.keys[n % 2]);
    filling.wait(n, 1);
    copy_bf16_half<kRows>(rows, slot, filling.first, 1, s.keys[n % 2]);
    copies_wait<1>();
    filling.publish(n, 0);
    copies_wait<0>();
    filling.publish(n, 1);
    slot = next;
  }
}

// A warp has read a half of the n-th tile.
template <int kBlocks>
__device__ __forceinline__ void give_back_half(Many& s, int n, int half) {
  __syncwarp();
  if (threadIdx.x % 32 != 0) return;
  Barrier* const empty = &s.empty[n % 2][half];
  barrier_arrive(empty);
  if constexpr (kBlocks == 2) arrive_at_having_read(address_in(shared_address(empty), cluster_rank() ^ 1));
}

}  // namespace fulgurite::sparse_attention::device
