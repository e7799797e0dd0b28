#pragma once
// What the kernels of sparse_attention_cuda.h share: which tiles a block takes, rows on their way into a tile of
// shared memory, and the workspace of split lists.

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"

namespace fulgurite::sparse_attention {

void launch_many(const CudaParams& params, cudaStream_t stream);   // block_heads 64
void launch_few(const CudaParams& params, cudaStream_t stream);    // block_heads 8, 16, 32
void launch_merge(const CudaParams& params, cudaStream_t stream);  // splits > 1
void check_cuda(cudaError_t status, const char* what);

namespace device {

using namespace fulgurite::cuda;

// 64 rows of 64 bf16, as wgmma reads them; nine of them hold a tile of keys: eight of latent columns, one of rope.
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

// Every thread takes part; `sums` has a place for each warp.
template <int kThreads>
__device__ __forceinline__ Work work_of(const CudaParams& p, int groups, int* sums) {
  Work w;
  w.group = static_cast<int>(blockIdx.x) % groups;
  w.split = static_cast<int>(blockIdx.x) / groups % p.splits;
  w.token = static_cast<int>(blockIdx.x) / groups / p.splits;
  const int32_t* const list = list_of(p, w.token);
  int count = 0;
#pragma unroll 6
  for (int i = static_cast<int>(threadIdx.x); i < p.topk; i += kThreads) count += list[i] >= 0 ? 1 : 0;
  count = __reduce_add_sync(~0u, count);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = count;
  __syncthreads();
  w.count = 0;
  for (int i = 0; i < kThreads / 32; ++i) w.count += sums[i];
  const int tiles = (w.count + kCudaTile - 1) / kCudaTile;
  w.first = tiles * w.split / p.splits;
  w.last = tiles * (w.split + 1) / p.splits;
  return w;
}

// --- rows ---

struct Rows {
  const uint8_t* base;
  int64_t stride;
  const int32_t* list;
  int count;  // entries up to the block's last

  __device__ __forceinline__ Rows(const CudaParams& p, const Work& w)
      : base(p.rows + (p.places != nullptr ? p.places[w.token].sequence * p.sequence_stride : 0)),
        stride(p.row_stride),
        list(list_of(p, w.token)),
        count(min(w.count, w.last * kCudaTile)) {}
  __device__ __forceinline__ int slot(int entry) const { return entry < count ? list[entry] : -1; }
  // Beyond the last entry its slot: what is no entry has no weight, and a NaN there is one of the list already.
  __device__ __forceinline__ int near_slot(int entry) const { return list[max(min(entry, count - 1), 0)]; }
  __device__ __forceinline__ const uint8_t* row(int slot) const { return base + slot * stride; }
};

__device__ __forceinline__ uint4 read16(const uint8_t* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}
__device__ __forceinline__ uint2 read8(const uint8_t* at) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
  return v;
}

__device__ __forceinline__ void write16(uint8_t* shared, uint4 v) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(shared)), "r"(v.x), "r"(v.y),
               "r"(v.z), "r"(v.w)
               : "memory");
}

__device__ __forceinline__ uint32_t times(uint32_t pair, uint32_t factor) {  // bf16, denormals kept
  uint32_t product;
  asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(product) : "r"(pair), "r"(factor));
  return product;
}

// Two e4m3 codes of a word (kFirst: bytes 0, 1; kSecond: 2, 3) as bf16: their values times 2^-120, exact but for codes
// of NaN. A code's sign is spread over the byte above it, and goes to bit 15; the other seven bits to 10 .. 4.
enum class Pair : uint32_t { kFirst = 0x9180, kSecond = 0xB3A2 };
template <Pair kPair>
__device__ __forceinline__ uint32_t code_pair(uint32_t word) {
  uint32_t spread;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(spread) : "r"(word), "n"(static_cast<uint32_t>(kPair)));
  return spread << 4 & 0x87F087F0u;
}

// Bit 7 of a byte is set if that byte of the word is a code of NaN, 0x7F or 0xFF.
__device__ __forceinline__ uint32_t nan_codes(uint32_t word) { return (word & 0x7F7F7F7Fu) + 0x01010101u; }

// What the pairs above are multiplied with: scale * 2^120, and where that is beyond bf16 (kTwice), 2^120 and scale.
constexpr uint32_t kTwo120 = 0x7B807B80u;
__device__ __forceinline__ bool within_once(uint32_t scales) {
  const uint32_t low = scales & 0x7FFFu, high = scales >> 16 & 0x7FFFu;
  return low - 0x80u < 0x4300u && high - 0x80u < 0x4300u;  // from the least normal number to 2^7
}
__device__ __forceinline__ uint32_t once(uint32_t scales) { return scales + 0x3C003C00u; }

// 16 codes of one scale become 16 bf16 values, in two 16-byte pieces of a row of the tile. A NaN among them makes all
// NaN: what reads the row is NaN in any case.
template <bool kTwice>
__device__ __forceinline__ void write_codes(uint8_t* low, uint8_t* high, uint4 codes, uint32_t factor) {
  const uint32_t nan =
      (nan_codes(codes.x) | nan_codes(codes.y) | nan_codes(codes.z) | nan_codes(codes.w)) & 0x80808080u;
  factor = nan != 0 ? 0x7FFF7FFFu : factor;
  const auto scaled = [&](uint32_t pair) { return times(kTwice ? times(pair, kTwo120) : pair, factor); };
  const auto first = [&](uint32_t word) { return scaled(code_pair<Pair::kFirst>(word)); };
  const auto second = [&](uint32_t word) { return scaled(code_pair<Pair::kSecond>(word)); };
  write16(low, {first(codes.x), second(codes.x), first(codes.y), second(codes.y)});
  write16(high, {first(codes.z), second(codes.z), first(codes.w), second(codes.w)});
}

// Half of the latent columns (256 bytes) of some of a tile's rows, kRows of a warp, in registers; the first half has
// rope with it. Lane 8 q + 4 b + i has 16 codes of rows 2 g + b: the i-th of the q-th 64 columns; so reads meet whole
// lines, and writes all banks. Of rope, lane 8 r + i has the i-th 16 bytes of rows 4 g + r.
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
        rope[g] = read16(rows.row(__shfl_sync(~0u, slot, 4 * g + lane / 8)) + kCudaLatent + 16 + lane % 8 * 16);
  }

  // As rows `first` and further, a multiple of 8.
  __device__ __forceinline__ void store(Tile& tile, int first) const {
    const uint32_t pair = __byte_perm(scales.x, scales.y, 0x7632);  // as bf16
    if (__all_sync(~0u, within_once(pair)))
      store_codes<false>(tile, first, once(pair));
    else
      store_codes<true>(tile, first, pair);
    if constexpr (kHalf == 0) store_rope(tile, first);
  }

 private:
  template <bool kTwice>
  __device__ __forceinline__ void store_codes(Tile& tile, int first, uint32_t factors) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, odd = lane / 4 % 2;
    const uint32_t select = lane < 16 ? 0x1010u : 0x3232u;  // a scale has 128 columns
    uint8_t* const rows = tile.pieces[4 * kHalf + lane / 8] + (first + odd) * 128;
    const int piece = (2 * (lane % 4) ^ odd) * 16;
#pragma unroll
    for (int g = 0; g < kRows / 2; ++g) {
      const uint32_t factor = __byte_perm(__shfl_sync(~0u, factors, 2 * g + odd), 0, select);
      const int low = piece ^ 2 * g % 8 * 16;
      write_codes<kTwice>(rows + g * 256 + low, rows + g * 256 + (low ^ 16), codes[g], factor);
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

__device__ __forceinline__ void copy16(uint8_t* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Queries of kHeads heads from `head` on, into nine pieces of kHeads rows; by kThreads threads. To be committed.
template <int kHeads, int kThreads>
__device__ __forceinline__ void copy_queries(const CudaParams& p, int token, int head, uint8_t* pieces) {
  const uint16_t* const q = p.q + token * p.q_token + head * p.q_head;
  const uint16_t* const rope = p.q_rope + token * p.q_rope_token + head * p.q_rope_head;
  for (int i = static_cast<int>(threadIdx.x); i < kHeads * 8 * kPieces; i += kThreads) {
    const int chunk = i % 8, row = i / 8 % kHeads, piece = i / 8 / kHeads;
    const uint16_t* const from =
        piece < 8 ? q + row * p.q_head + piece * 64 : rope + row * p.q_rope_head;
    copy16(pieces + (piece * kHeads + row) * 128 + (chunk ^ row % 8) * 16, from + chunk * 8);
  }
}

// --- softmax ---

constexpr float kLog2E = 1.4426950408889634f;
__device__ __forceinline__ float exponential(float x) {
  float e;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(__fmul_rn(x, kLog2E)));
  return e;
}
__device__ __forceinline__ float minus_infinity() { return __uint_as_float(0xFF800000u); }
// What scores are weighed against: where all are -infinity, anything that gives them no weight.
__device__ __forceinline__ float weighed_against(float largest) {
  return largest == minus_infinity() ? 0.0f : largest;
}

// --- the workspace: sums [tokens, splits, heads, 512], then (largest, denominator) [tokens, splits, heads] ---

__device__ __forceinline__ int64_t run_of(const CudaParams& p, int token, int split, int head) {
  return (static_cast<int64_t>(token) * p.splits + split) * p.heads + head;
}
__device__ __forceinline__ float* sums_of(const CudaParams& p) { return static_cast<float*>(p.workspace); }
__device__ __forceinline__ float2* ends_of(const CudaParams& p) {
  return reinterpret_cast<float2*>(sums_of(p) + run_of(p, p.tokens, 0, 0) * kCudaLatent);
}

// Four 8 x 8 matrices of bf16, a row of 16 bytes each at `address` of lanes 0 .. 7, 8 .. 15, ...
__device__ __forceinline__ void write_matrices(uint32_t address, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(m[0]),
               "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}
// Two, transposed.
__device__ __forceinline__ void write_matrices_across(uint32_t address, uint32_t m0, uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(m0), "r"(m1)
               : "memory");
}

}  // namespace device
}  // namespace fulgurite::sparse_attention
