#pragma once
// What the kernels of sparse_attention_cuda.h share: which tiles a block takes, rows on their way into a tile
// of shared memory, and the workspace of split lists.

#include "fulgurite/cuda/attend_tile.h"
#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"

namespace fulgurite::sparse_attention {

void launch_many(const CudaParams& params, cudaStream_t stream);   // block_heads 64
void launch_few(const CudaParams& params, cudaStream_t stream);    // block_heads 8, 16, 32
void launch_merge(const CudaParams& params, cudaStream_t stream);  // splits > 1

namespace device {

using namespace fulgurite::cuda;

// 64 rows of 64 bf16, as wgmma reads them; nine of them hold a tile of keys: eight of latent columns, one of
// rope.
constexpr int kPiece = kCudaTile * 128, kPieces = 9;
struct alignas(1024) Tile {
  uint8_t pieces[kPieces][kPiece];
};

// --- which tiles ---

struct Work {
  int token, split, group;
  int count;        // entries of the list
  int first, last;  // tiles
};

__device__ __forceinline__ const int32_t* list_of(const CudaParams& p, int token) {
  return p.selected + token * p.selected_stride;
}

__device__ __forceinline__ Work block_of(const CudaParams& p, int groups) {
  const int block = static_cast<int>(blockIdx.x);
  return {block / groups / p.splits, block / groups % p.splits, block % groups, 0, 0, 0};
}

// The block's tiles, from what its kWarps warps that count found.
template <int kWarps>
__device__ __forceinline__ void deal_tiles(const CudaParams& p, const int* counts, Work& w) {
  w.count = 0;
  for (int i = 0; i < kWarps; ++i) w.count += counts[i];
  const int tiles = (w.count + kCudaTile - 1) / kCudaTile;
  w.first = tiles * w.split / p.splits;
  w.last = tiles * (w.split + 1) / p.splits;
}

// By kThreads of the block's threads, of which this is number `thread` and which `meet` brings together. All reads of
// 2048 entries are under way at once.
template <int kThreads, class Meet>
__device__ __forceinline__ void count_list(const CudaParams& p, int* counts, Work& w, int thread,
                                           const Meet& meet) {
  constexpr int kAtOnce = 2048 / kThreads;
  const int32_t* const list = list_of(p, w.token);
  int count = 0;
  for (int begin = thread; begin < p.topk; begin += kAtOnce * kThreads) {
    int32_t entries[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int at = begin + i * kThreads;
      entries[i] = at < p.topk ? list[at] : -1;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) count += entries[i] >= 0 ? 1 : 0;
  }
  count = __reduce_add_sync(~0u, count);
  if (thread % 32 == 0) counts[thread / 32] = count;
  meet();
  deal_tiles<kThreads / 32>(p, counts, w);
}

// --- rows ---

struct Rows {
  const uint8_t* base;
  uint32_t stride;
  const int32_t* list;
  int count;  // entries up to the block's last

  __device__ __forceinline__ Rows(const CudaParams& p, const Work& w)
      : base(p.rows + (p.places != nullptr ? p.places[w.token].sequence * p.sequence_stride : 0)),
        stride(static_cast<uint32_t>(p.row_stride)),
        list(list_of(p, w.token)),
        count(min(w.count, w.last * kCudaTile)) {}
  __device__ __forceinline__ int slot(int entry) const { return entry < count ? list[entry] : -1; }
  // Beyond the last entry its slot: what is no entry has no weight, and a NaN there is one of the list already.
  // To be left alone until its row is read: it would be waited for.
  __device__ __forceinline__ int near_slot(int entry) const {
    return read_entry(list + max(min(entry, count - 1), 0));
  }
  __device__ __forceinline__ const uint8_t* row(int slot) const {
    return base + static_cast<uint64_t>(static_cast<uint32_t>(slot)) * stride;
  }

 private:
  // Where it stands: the compiler would move it behind the reads of rows, all of which would be waited for with it.
  static __device__ __forceinline__ int read_entry(const int32_t* at) {
    int entry;
    asm volatile("ld.global.s32 %0, [%1];" : "=r"(entry) : "l"(at));
    return entry;
  }
};

// What the pairs above are multiplied with: scale * 2^120, and where that is beyond bf16 (kTwice), 2^120 and
// scale.
__device__ __forceinline__ bool within_once(uint32_t scales) {
  const uint32_t low = scales & 0x7FFFu, high = scales >> 16 & 0x7FFFu;
  return low - 0x80u < 0x4300u && high - 0x80u < 0x4300u;  // from the least normal number to 2^7
}
__device__ __forceinline__ uint32_t once(uint32_t scales) { return scales + 0x3C003C00u; }

// Half of the latent columns (256 bytes) of some of a tile's rows, kRows of a warp, in registers; the first
// half has rope with it. Lane 8 q + 4 b + i has 16 codes of rows 2 g + b: the i-th of the q-th 64 columns; so
// reads meet whole lines, and writes all banks. Of rope, lane 8 r + i has the i-th 16 bytes of rows 4 g + r.
template <int kHalf, int kRows>
struct Fp8Half {
  uint4 codes[kRows / 2];
  uint4 rope[kRows / 4];  // of the first half
  uint2 scales;           // of row lane % kRows

  // `slot`: of row lane % kRows.
  __device__ __forceinline__ void load(const Rows& rows, int slot) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    scales = read8(rows.row(slot) + kCudaLatent + 8 * kHalf);
    const int64_t at = 256 * kHalf + lane / 8 * 64 + lane % 4 * 16;
#pragma unroll
    for (int g = 0; g < kRows / 2; ++g)
      codes[g] = read16(rows.row(__shfl_sync(~0u, slot, 2 * g + lane / 4 % 2)) + at);
    if constexpr (kHalf == 0)
#pragma unroll
      for (int g = 0; g < kRows / 4; ++g)
        rope[g] =
            read16(rows.row(__shfl_sync(~0u, slot, 4 * g + lane / 8)) + kCudaLatent + 16 + lane % 8 * 16);
  }

  // What the lane's codes are multiplied with.
  struct Factors {
    uint32_t of_rows[kRows / 2];
    bool twice;
  };
  __device__ __forceinline__ Factors factors() const {
    Factors f;
    const uint32_t own = own_factors(f.twice);
#pragma unroll
    for (int g = 0; g < kRows / 2; ++g) f.of_rows[g] = factor_of_row(own, g);
    return f;
  }

  // As rows `first` and further, a multiple of 8. With factors that were exchanged before, all at once, no row waits for
  // its own; without, they take no registers, of which blocks of few heads have none left.
  __device__ __forceinline__ void store(Tile& tile, int first, const Factors& f) const {
    store_all(tile, first, f.twice, [&](int g) { return f.of_rows[g]; });
  }
  __device__ __forceinline__ void store(Tile& tile, int first) const {
    bool twice;
    const uint32_t own = own_factors(twice);
    store_all(tile, first, twice, [&](int g) { return factor_of_row(own, g); });
  }

 private:
  // Of both scales of row lane % kRows; `twice` is the same for all rows of the warp.
  __device__ __forceinline__ uint32_t own_factors(bool& twice) const {
    const uint32_t pair = __byte_perm(scales.x, scales.y, 0x7632);  // as bf16
    twice = !__all_sync(~0u, within_once(pair));
    return twice ? pair : once(pair);
  }
  // Of the lane's row of pair g.
  static __device__ __forceinline__ uint32_t factor_of_row(uint32_t own, int g) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const uint32_t select = lane < 16 ? 0x1010u : 0x3232u;  // a scale has 128 columns
    return __byte_perm(__shfl_sync(~0u, own, 2 * g + lane / 4 % 2), 0, select);
  }

  template <class FactorOf>
  __device__ __forceinline__ void store_all(Tile& tile, int first, bool twice,
                                            const FactorOf& factor_of) const {
    if (__builtin_expect(!twice, 1))
      store_codes<false>(tile, first, factor_of);
    else
      store_codes<true>(tile, first, factor_of);
    if constexpr (kHalf == 0) store_rope(tile, first);
  }

  template <bool kTwice, class FactorOf>
  __device__ __forceinline__ void store_codes(Tile& tile, int first, const FactorOf& factor_of) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, odd = lane / 4 % 2;
    uint8_t* const rows = tile.pieces[4 * kHalf + lane / 8] + (first + odd) * 128;
    const int piece = (2 * (lane % 4) ^ odd) * 16;
#pragma unroll
    for (int g = 0; g < kRows / 2; ++g) {
      const int low = piece ^ 2 * g % 8 * 16;
      write_codes<kTwice>(rows + g * 256 + low, rows + g * 256 + (low ^ 16), codes[g], factor_of(g));
    }
  }

  __device__ __forceinline__ void store_rope(Tile& tile, int first) const {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int g = 0; g < kRows / 4; ++g) {
      const int row = first + 4 * g + lane / 8;
      write16(tile.pieces[kPieces - 1] + row * 128 + (lane % 8 ^ row % 8) * 16, rope[g]);
    }
  }
};

// Queries of kHeads heads from `head` on, into nine pieces of kHeads rows; by kThreads threads. To be
// committed.
template <int kHeads, int kThreads>
__device__ __forceinline__ void copy_queries(const CudaParams& p, int token, int head, uint8_t* pieces) {
  const uint16_t* const q = p.q + token * p.q_token + head * p.q_head;
  const uint16_t* const rope = p.q_rope + token * p.q_rope_token + head * p.q_rope_head;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * 8 * kPieces; i += kThreads) {
    const int chunk = i % 8, row = i / 8 % kHeads, piece = i / 8 / kHeads;
    const uint16_t* const from = piece < 8 ? q + row * p.q_head + piece * 64 : rope + row * p.q_rope_head;
    copy16(pieces + (piece * kHeads + row) * 128 + (chunk ^ row % 8) * 16, from + chunk * 8);
  }
}

// --- the workspace: sums [tokens, splits, heads, 512], then (largest, denominator) [tokens, splits, heads]
// ---

__device__ __forceinline__ int64_t run_of(const CudaParams& p, int token, int split, int head) {
  return (static_cast<int64_t>(token) * p.splits + split) * p.heads + head;
}
__device__ __forceinline__ float* sums_of(const CudaParams& p) { return static_cast<float*>(p.workspace); }
__device__ __forceinline__ float2* ends_of(const CudaParams& p) {
  return reinterpret_cast<float2*>(sums_of(p) + run_of(p, p.tokens, 0, 0) * kCudaLatent);
}

}  // namespace device
}  // namespace fulgurite::sparse_attention
