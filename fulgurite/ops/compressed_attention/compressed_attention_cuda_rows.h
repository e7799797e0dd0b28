#pragma once
// What a block of compressed_attention_cuda_attend.cu has in shared memory, which of a token's keys it takes, and the warps that
// bring their rows.

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_parts.h"

namespace fulgurite::compressed_attention::device {

constexpr int kGroupThreads = 128, kThreads = 3 * kGroupThreads, kWarps = 4, kHeads = 64;
constexpr int kPiece = kTile * 128, kHalfPieces = 4;
enum : uint32_t { kOwn = 1, kGiven = 3, kTaken = 5 };  // named barriers, two of each

struct alignas(1024) Tile {
  uint8_t pieces[2 * kHalfPieces][kPiece];
};

// Of a block's keys, in shared memory.
struct Keys {
  int sequence, token;
  int oldest;        // the row of the ring that is the first key
  int seen, count;   // of the window; of all keys
  int first, tiles;  // the key of the warp's first row; tiles
};

struct Shared {
  Tile queries;  // later, results
  Tile keys[2];
  float4 scores[2][8][kGroupThreads];  // of half of the columns
  Barrier full[2][2], empty[2][2];     // of halves of tiles
  Keys of_warp[kWarps];                // of those that bring rows
  int counts[kThreads / 32];
};

// --- which keys ---

struct Work {
  int token, split, group;  // of heads
  TokenPlace place;
  int first_seen, seen, count;  // of the window; of all keys
  int first, last;              // tiles
  __device__ __forceinline__ int tiles() const { return last - first; }
};

__device__ __forceinline__ const int32_t* list_of(const CudaParams& p, int token) {
  return p.selected + token * p.selected_token;
}

// Entries of the list; every thread takes part.
__device__ __forceinline__ int selected_entries(const CudaParams& p, int token, int* sums) {
  const int32_t* const list = list_of(p, token);
  int count = 0;
#pragma unroll 3
  for (int i = static_cast<int>(threadIdx.x); i < p.topk; i += kThreads) count += list[i] >= 0 ? 1 : 0;
  count = __reduce_add_sync(~0u, count);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = count;
  __syncthreads();
  count = 0;
#pragma unroll
  for (int i = 0; i < kThreads / 32; ++i) count += sums[i];
  return count;
}

__device__ __forceinline__ Work work_of(const CudaParams& p) {
  const int groups = p.heads / p.block_heads, block = static_cast<int>(blockIdx.x);
  Work w{};
  w.group = block % groups;
  w.split = block / groups % p.splits;
  w.token = block / groups / p.splits;
  w.place = p.places[w.token];
  w.first_seen = max(0, w.place.position - p.seen + 1);
  w.seen = w.place.position + 1 - w.first_seen;
  return w;
}

__device__ __forceinline__ void deal_tiles(const CudaParams& p, int entries, Work& w) {
  w.count = w.seen + entries;
  const int tiles = (w.count + kTile - 1) / kTile;
  w.first = tiles * w.split / p.splits;
  w.last = tiles * (w.split + 1) / p.splits;
}

// --- rows ---
//
// The warps that bring rows have most of their registers on the way from memory, and look at none of them before a whole half of a
// tile has been stored in between. What they need beside is made anew each time: a register that was spilled is read in its turn,
// behind every read from memory that is under way.

__device__ __forceinline__ int lane_now() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Where a key lies: a row of the window, or ~row among the entries. Beyond the last key its: what is no key has no weight, and a
// NaN there is one of the keys' already.
__device__ __forceinline__ int slot_of(const CudaParams& p, const volatile Keys& keys, int key) {
  key = min(key, keys.count - 1);
  const int entry = key - keys.seen;
  if (entry >= 0) return ~(p.topk > 0 ? list_of(p, keys.token)[entry] : entry);
  const int row = keys.oldest + key;
  return row < p.ring ? row : row - p.ring;
}

// Of a slot: its codes, and its scales.
__device__ __forceinline__ const uint8_t* block_of(const CudaParams& p, const volatile Keys& keys, int slot) {
  const CudaRows& cache = slot < 0 ? p.entries : p.window;
  return cache.data + keys.sequence * cache.sequence + (slot < 0 ? ~slot : slot) / kBlockRows * cache.block;
}
__device__ __forceinline__ const uint8_t* codes_of(const CudaParams& p, const volatile Keys& keys, int slot) {
  return block_of(p, keys, slot) + (slot < 0 ? ~slot : slot) % kBlockRows * kRowBytes;
}
__device__ __forceinline__ const uint8_t* scales_of(const CudaParams& p, const volatile Keys& keys,
                                                    int slot) {
  return block_of(p, keys, slot) + kBlockRows * kRowBytes +
         (slot < 0 ? ~slot : slot) % kBlockRows * kScaleBytes;
}
// What lane r has.
__device__ __forceinline__ const uint8_t* of_lane(const uint8_t* address, int r) {
  return reinterpret_cast<const uint8_t*>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(address), r));
}

// Four e8m0 of a word: does each fit a factor scale * 2^120 of bf16?
__device__ __forceinline__ bool within_once(uint32_t scales) { return __vcmpgtu4(scales, 0x86868686u) == 0; }
__device__ __forceinline__ uint32_t once(uint32_t scale) { return (scale + 120) * 0x00800080u; }
// The scale itself.
__device__ __forceinline__ uint32_t twice(uint32_t scale) {
  return scale == 255 ? 0x7FFF7FFFu : scale == 0 ? 0x00400040u : scale * 0x00800080u;
}

// The codes of half of the columns of a warp's 16 rows, in registers: lane 4 r + i has, of rows r and r + 8, the i-th 16 of each
// group of 64. Of row lane % 16 a lane has the scales, and the slot.
template <int kHalf>
struct Codes {
  static constexpr int kGroups = kHalf == 0 ? 4 : 3;
  uint4 codes[kGroups][2];
  uint32_t scales;

  __device__ __forceinline__ void load(const CudaParams& p, const volatile Keys& keys, int slot) {
    const int lane = lane_now();
    const uint8_t* const own = codes_of(p, keys, slot);
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const uint8_t* const from = of_lane(own, 8 * o + lane / 4) + 256 * kHalf + lane % 4 * 16;
#pragma unroll
      for (int g = 0; g < kGroups; ++g) codes[g][o] = read16(from + 64 * g);
    }
    scales = read4(scales_of(p, keys, slot) + 4 * kHalf);
  }

  // As rows `first` and further, a multiple of 16.
  __device__ __forceinline__ void store(Tile& tile, int first) const {
    if (__all_sync(~0u, within_once(kHalf == 0 ? scales : scales & 0x00FFFFFFu)))  // the last byte is padding
      store_as<false>(tile, first);
    else
      store_as<true>(tile, first);
  }

 private:
  template <bool kTwice>
  __device__ __forceinline__ void store_as(Tile& tile, int first) const {
    const int lane = lane_now(), r = lane / 4, low = (2 * (lane % 4) ^ r) * 16;
#pragma unroll
    for (int o = 0; o < 2; ++o) {
      const uint32_t of_row = __shfl_sync(~0u, scales, 8 * o + r);
#pragma unroll
      for (int g = 0; g < kGroups; ++g) {
        const uint32_t scale = of_row >> 8 * g & 255;
        uint8_t* const at = tile.pieces[kHalfPieces * kHalf + g] + (first + 8 * o + r) * 128;
        write_codes<kTwice>(at + low, at + (low ^ 16), codes[g][o], kTwice ? twice(scale) : once(scale));
      }
    }
  }
};

// The rotated columns of the same rows, straight into the last piece; every lane arrives at the barrier when its are there.
__device__ __forceinline__ void copy_rotated(const CudaParams& p, const volatile Keys& keys, int slot,
                                             Tile& tile, int first, Barrier* full) {
  const int lane = lane_now();
  const uint8_t* const own = codes_of(p, keys, slot) + kCoded;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int r = 4 * k + lane / 8;
    copy16(tile.pieces[2 * kHalfPieces - 1] + (first + r) * 128 + (lane % 8 ^ r % 8) * 16,
           of_lane(own, r) + lane % 8 * 16);
  }
  barrier_arrive_after_copies(full);
}

__device__ __forceinline__ void bring(const CudaParams& p, const Work& w, Shared& s) {
  const int warp = static_cast<int>(threadIdx.x) % kGroupThreads / 32, first = warp * 16;
  volatile Keys& keys = s.of_warp[warp];
  if (threadIdx.x % 32 == 0) {
    keys.sequence = w.place.sequence, keys.token = w.token;
    keys.oldest = w.first_seen % p.ring;
    keys.seen = w.seen, keys.count = w.count;
    keys.first = w.first * kTile + first, keys.tiles = w.tiles();
  }
  __syncwarp();
  const auto slot_in = [&](int n) { return slot_of(p, keys, keys.first + n * kTile + lane_now() % 16); };
  const auto publish = [&](Barrier* barrier) {
    __syncwarp();
    if (lane_now() == 0) barrier_arrive(barrier);
  };
  Codes<0> left;
  Codes<1> right;
  int slot = slot_in(0), next = slot_in(1);
  left.load(p, keys, slot);
  right.load(p, keys, slot);
  for (int n = 0; n < keys.tiles; ++n) {
    const int buffer = n % 2;
    const uint32_t parity = static_cast<uint32_t>(n / 2) % 2 ^ 1;
    barrier_wait(&s.empty[buffer][0], parity);
    barrier_wait(&s.empty[buffer][1], parity);
    copy_rotated(p, keys, slot, s.keys[buffer], first, &s.full[buffer][1]);
    slot = next;
    left.store(s.keys[buffer], first);
    publish(&s.full[buffer][0]);
    next = slot_in(n + 2);
    if (n + 1 < keys.tiles) left.load(p, keys, slot);
    right.store(s.keys[buffer], first);
    publish(&s.full[buffer][1]);
    if (n + 1 < keys.tiles) right.load(p, keys, slot);
  }
}

}  // namespace fulgurite::compressed_attention::device
