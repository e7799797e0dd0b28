// Up to 64 heads of a token over a run of its keys (compressed_attention_cuda_parts.h).
//
// Heads are the 64 rows of wgmma; those that a block does not have are zeros. A tile is keys and values in one: eight pieces of 64
// columns. Three warpgroups: one brings rows through registers and makes bf16 of their codes; the others have half of the columns
// each, of the scores' sum and of O, and so read half of a tile each. They give one another their part of the scores through shared
// memory; then both make the same softmax, and P goes from registers into the product.
// Fences between writes of a tile and wgmma are the reader's: one of a thread that has reads from memory under way would wait for
// them.
// Limits of a tile: 37 kB of rows from memory; 2,048 clocks of the tensor cores; about as many of shared memory.

#include <algorithm>

#include "fulgurite/cuda/check.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/compressed_attention/compressed_attention_cuda_parts.h"

namespace fulgurite::compressed_attention {
namespace device {
namespace {

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

// --- products ---

// Half of the queries' columns; what no head is, is zero.
__device__ __forceinline__ void bring_queries(const CudaParams& p, const Work& w, Shared& s, int half) {
  const uint16_t* const q = p.q + w.token * p.q_token + w.group * p.block_heads * p.q_head;
#pragma unroll 4
  for (int i = static_cast<int>(threadIdx.x) % kGroupThreads; i < kHeads * 8 * kHalfPieces;
       i += kGroupThreads) {
    const int chunk = i % 8, piece = half * kHalfPieces + i / 8 % kHalfPieces, at = i / 8 / kHalfPieces;
    uint8_t* const to = s.queries.pieces[piece] + at * 128 + (chunk ^ at % 8) * 16;
    if (at < p.block_heads)
      copy16(to, q + at * p.q_head + piece * 64 + chunk * 8);
    else
      write16(to, {});
  }
  copies_commit();
}

// Of the warp's 16 heads a thread has lane / 4 and 8 further: [r]; of keys 8 j + 2 (lane % 4) + b: elements 4 j + 2 r + b.
struct Attend {
  const CudaParams& p;
  const Work& w;
  Shared& s;
  const int half;  // the warpgroup
  float o[128];    // of 256 columns
  float largest[2], denominator[2], rescale[2];

  __device__ __forceinline__ Attend(const CudaParams& params, const Work& work, Shared& shared, int warpgroup)
      : p(params), w(work), s(shared), half(warpgroup) {
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = 0.0f;
#pragma unroll
    for (int r = 0; r < 2; ++r) largest[r] = minus_infinity(), denominator[r] = 0.0f;
  }

  static __device__ __forceinline__ int thread() { return static_cast<int>(threadIdx.x) % kGroupThreads; }
  static __device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x) % 32; }
  static __device__ __forceinline__ int row(int r) { return thread() / 32 * 16 + lane() / 4 + 8 * r; }
  __device__ __forceinline__ int head(int r) const { return w.group * p.block_heads + row(r); }
  __device__ __forceinline__ bool has(int r) const { return row(r) < p.block_heads; }

  // This half's part of the scores of the n-th tile.
  __device__ __forceinline__ void multiply_keys(int n, float (&d)[32]) const {
    const uint64_t q = wgmma_operand(s.queries.pieces[half * kHalfPieces]),
                   k = wgmma_operand(s.keys[n % 2].pieces[half * kHalfPieces]);
    barrier_wait(&s.full[n % 2][half], static_cast<uint32_t>(n / 2) % 2);
    shared_writes_fence();
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kHalfPieces * 4; ++i) {
      const auto step = static_cast<uint64_t>(i / 4 * (kPiece >> 4) + 2 * (i % 4));
      WgmmaBf16<64>::multiply<Lie::kAlong, Lie::kAlong>(d, q + step, k + step, i > 0);
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void add_other_half(int n, float (&d)[32]) const {
    const int other = half ^ 1;
    if (n > 0) named_barrier_sync(kTaken + half, 2 * kGroupThreads);
#pragma unroll
    for (int i = 0; i < 8; ++i)
      s.scores[half][i][thread()] = {d[4 * i], d[4 * i + 1], d[4 * i + 2], d[4 * i + 3]};
    named_barrier_arrive(kGiven + half, 2 * kGroupThreads);
    named_barrier_sync(kGiven + other, 2 * kGroupThreads);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 part = s.scores[other][i][thread()];
      d[4 * i] = __fadd_rn(d[4 * i], part.x);
      d[4 * i + 1] = __fadd_rn(d[4 * i + 1], part.y);
      d[4 * i + 2] = __fadd_rn(d[4 * i + 2], part.z);
      d[4 * i + 3] = __fadd_rn(d[4 * i + 3], part.w);
    }
    if (n + 1 < w.tiles()) named_barrier_arrive(kTaken + other, 2 * kGroupThreads);
  }

  __device__ __forceinline__ void scale_scores(int n, float (&d)[32]) const {
    const int left = w.count - (w.first + n) * kTile;
#pragma unroll
    for (int i = 0; i < 32; ++i) d[i] = __fmul_rn(d[i], p.scale);
    if (left >= kTile) return;
#pragma unroll
    for (int i = 0; i < 32; ++i)
      if (i / 4 * 8 + 2 * (lane() % 4) + i % 2 >= left) d[i] = minus_infinity();
  }

  // Scores become weights, which the product takes as bf16: of 16 keys a row of `weights`.
  __device__ __forceinline__ void weigh(float (&d)[32], uint32_t (&weights)[4][4]) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float most = largest[r];
#pragma unroll
      for (int j = 0; j < 8; ++j) most = fmaxf(most, fmaxf(d[4 * j + 2 * r], d[4 * j + 2 * r + 1]));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 1));
      most = fmaxf(most, __shfl_xor_sync(~0u, most, 2));
      const float against = weighed_against(most);
      rescale[r] = exponential(largest[r] - against);
      largest[r] = most;
      float sum = 0.0f;
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        float &a = d[4 * j + 2 * r], &b = d[4 * j + 2 * r + 1];
        a = exponential(a - against);
        b = exponential(b - against);
        sum = __fadd_rn(sum, __fadd_rn(a, b));
      }
      denominator[r] = __fmaf_rn(denominator[r], rescale[r], sum);
    }
#pragma unroll
    for (int i = 0; i < 16; ++i)
      asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(weights[i / 4][i % 4]) : "f"(d[2 * i + 1]), "f"(d[2 * i]));
  }

  __device__ __forceinline__ void rescale_sums() {
    if (!__any_sync(~0u, rescale[0] != 1.0f || rescale[1] != 1.0f)) return;
#pragma unroll
    for (int i = 0; i < 128; ++i) o[i] = __fmul_rn(o[i], rescale[i / 2 % 2]);
  }

  __device__ __forceinline__ void add_values(int n, const uint32_t (&weights)[4][4]) {
    const uint64_t v = wgmma_across(s.keys[n % 2].pieces[half * kHalfPieces], kPiece);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) WgmmaBf16<256>::multiply<Lie::kAcross>(o, weights[k], v + 128 * k, 1);
    wgmma_commit();
  }

  __device__ __forceinline__ void give_back(int n) const {
    __syncwarp();
    if (lane() == 0) barrier_arrive(&s.empty[n % 2][half]);
  }

  __device__ __forceinline__ void add_tiles() {
    float d[32];
    multiply_keys(0, d);
    for (int n = 0; n < w.tiles(); ++n) {
      uint32_t weights[4][4];
      wgmma_wait<0>();
      wgmma_result(d);
      add_other_half(n, d);
      scale_scores(n, d);
      weigh(d, weights);
      rescale_sums();
      add_values(n, weights);
      if (n + 1 < w.tiles()) {
        multiply_keys(n + 1, d);
        wgmma_wait<1>();
      } else {
        wgmma_wait<0>();
      }
      wgmma_result(o);
      give_back(n);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      denominator[r] = __fadd_rn(denominator[r], __shfl_xor_sync(~0u, denominator[r], 1));
      denominator[r] = __fadd_rn(denominator[r], __shfl_xor_sync(~0u, denominator[r], 2));
    }
  }

  __device__ __forceinline__ void write_run() const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!has(r)) continue;
      const int64_t run = run_of(p, w.token, w.split, head(r));
      if (half == 0 && lane() % 4 == 0) ends_of(p)[run] = {largest[r], denominator[r]};
      if (w.tiles() == 0) continue;  // the merge reads no sums of it
      float* const at = sums_of(p) + run * kColumns + half * 256 + 2 * (lane() % 4);
#pragma unroll
      for (int j = 0; j < 32; ++j)
        *reinterpret_cast<float2*>(at + 8 * j) = {o[4 * j + 2 * r], o[4 * j + 2 * r + 1]};
    }
  }

  // Rows of bf16, laid where this half of the queries was; a warp writes its own heads.
  __device__ __forceinline__ void write_out() {
    named_barrier_sync(kOwn + half, kGroupThreads);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (!has(r)) continue;
      const float inverse = inverse_of(denominator[r], largest[r], __ldg(p.sink + head(r)));
#pragma unroll
      for (int j = 0; j < 32; ++j) {
        float a = __fmul_rn(o[4 * j + 2 * r], inverse), b = __fmul_rn(o[4 * j + 2 * r + 1], inverse);
        if (j >= 24 && half == 1) rotate_back(p, w.place.position, 4 * (j - 24) + lane() % 4, a, b);
        uint32_t pair;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
        uint8_t* const at = s.queries.pieces[half * kHalfPieces + j / 8] + row(r) * 128;
        *reinterpret_cast<uint32_t*>(at + (j % 8 ^ row(r) % 8) * 16 + lane() % 4 * 4) = pair;
      }
    }
    __syncwarp();
    uint16_t* const out = p.out + w.token * p.out_token + half * 256 + lane() * 8;
    for (int i = 0; i < 16; ++i) {
      const int at = thread() / 32 * 16 + i;
      if (at >= p.block_heads) break;
      const uint8_t* const from =
          s.queries.pieces[half * kHalfPieces + lane() / 8] + at * 128 + (lane() % 8 ^ at % 8) * 16;
      *reinterpret_cast<uint4*>(out + (w.group * p.block_heads + at) * p.out_head) =
          *reinterpret_cast<const uint4*>(from);
    }
  }
};

__global__ void __launch_bounds__(kThreads, 1) attend_kernel(const __grid_constant__ CudaParams p) {
  extern __shared__ __align__(1024) uint8_t raw[];
  auto& s = *reinterpret_cast<Shared*>(raw);
  if (threadIdx.x == 0) {
    for (int i = 0; i < 2; ++i) {
      barrier_init(&s.full[i][0], kWarps);
      barrier_init(&s.full[i][1], kWarps + kGroupThreads);  // and copies
      barrier_init(&s.empty[i][0], kWarps);
      barrier_init(&s.empty[i][1], kWarps);
    }
    barrier_init_fence();
  }
  release_successor();
  Work w = work_of(p);
  const int warpgroup = __shfl_sync(~0u, static_cast<int>(threadIdx.x) / kGroupThreads, 0);
  wait_for_predecessor();
  int entries = p.ratio == 0 ? 0 : (w.place.position + 1) / p.ratio;
  if (p.topk > 0)
    entries = selected_entries(p, w.token, s.counts);
  else
    __syncthreads();
  deal_tiles(p, entries, w);
  if (warpgroup == 2) {
    give_registers<88>();
    if (w.tiles() > 0) bring(p, w, s);
    return;
  }
  take_registers<208>();
  bring_queries(p, w, s, warpgroup);
  copies_wait<0>();
  shared_writes_fence();
  named_barrier_sync(kOwn + warpgroup, kGroupThreads);  // this half of the queries is there
  Attend a(p, w, s, warpgroup);
  if (w.tiles() > 0) a.add_tiles();
  if (p.splits > 1)
    a.write_run();
  else
    a.write_out();
}

}  // namespace
}  // namespace device

void launch_attend(const CudaParams& p, cudaStream_t stream) {
  static const cudaError_t allowed =
      cudaFuncSetAttribute(device::attend_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           static_cast<int>(sizeof(device::Shared)));
  cuda::check(allowed, "shared memory");
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(p.tokens * p.splits * (p.heads / p.block_heads)));
  config.blockDim = dim3(device::kThreads);
  config.dynamicSmemBytes = sizeof(device::Shared);
  config.stream = stream;
  cudaLaunchAttribute attribute = cuda::dependent_launch(true);
  config.attrs = &attribute;
  config.numAttrs = 1;
  cuda::check(cudaLaunchKernelEx(&config, device::attend_kernel, p), "a launch");
}

}  // namespace fulgurite::compressed_attention
