#pragma once
// What the kernels of sparse_attention_cuda.h share: which tiles a block takes, rows on their way into a tile of
// shared memory, and the workspace of split lists.

#include "fulgurite/cuda/barrier.h"
#include "fulgurite/cuda/dependent_launch.h"
#include "fulgurite/cuda/wgmma_bf16.h"
#include "fulgurite/ops/sparse_attention/sparse_attention_cuda.h"

namespace fulgurite::sparse_attention {

void launch_many(const CudaParams& params, cudaStream_t stream);   // 64, 128 heads
void launch_few(const CudaParams& params, cudaStream_t stream);    // 8, 16, 32
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

// Two e4m3 codes at bits 8 .. 15 and 24 .. 31, the rest 0: as bf16, the values times 2^-120. Exact, codes of NaN
// excepted.
__device__ __forceinline__ uint32_t code_pair(uint32_t codes) {
  return (codes & 0x80008000u) | (codes >> 4 & 0x07F007F0u);
}

// Not 0 if a byte of the word is a code of NaN, 0x7F or 0xFF (bit 7 of that byte).
__device__ __forceinline__ uint32_t nan_codes(uint32_t word) { return (word & 0x7F7F7F7Fu) + 0x01010101u; }

// 16 codes of one scale become 16 bf16 values, in two 16-byte pieces of a row of the tile. A NaN among them makes all
// NaN: what reads the row is NaN in any case.
__device__ __forceinline__ void write_codes(uint8_t* low, uint8_t* high, uint4 codes, uint32_t scale) {
  constexpr uint32_t kTwo120 = 0x7B807B80u, kNaN = 0x7FFF7FFFu;
  const uint32_t nan =
      (nan_codes(codes.x) | nan_codes(codes.y) | nan_codes(codes.z) | nan_codes(codes.w)) & 0x80808080u;
  const uint32_t factor = nan != 0 ? kNaN : scale;
  const auto values = [&](uint32_t word, uint32_t select) {
    return times(times(code_pair(__byte_perm(word, 0, select)), kTwo120), factor);
  };
  constexpr uint32_t kFirst = 0x1404, kSecond = 0x3424;  // bytes 0, 1 and bytes 2, 3 of a word
  write16(low, {values(codes.x, kFirst), values(codes.x, kSecond), values(codes.y, kFirst),
                values(codes.y, kSecond)});
  write16(high, {values(codes.z, kFirst), values(codes.z, kSecond), values(codes.w, kFirst),
                 values(codes.w, kSecond)});
}

// A power of two (or NaN) of fp32 as a pair of bf16.
__device__ __forceinline__ uint32_t scale_pair(uint32_t scale) { return __byte_perm(scale, 0, 0x3232); }

// Half of the latent columns of a warp's 16 rows of a tile, in registers; the first half has rope with it. Four lanes
// share a row, a register has eight rows: 8 g + lane / 4.
template <int kHalf>
struct Fp8Half {
  uint4 codes[2][4];  // 64 columns each
  uint2 scales[2];
  uint4 rope[2][2];  // of the first half

  __device__ __forceinline__ void load(const Rows& rows, const int (&slots)[2]) {
    const int part = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      if (slots[g] < 0) {
        clear(g);
        continue;
      }
      const uint8_t* const row = rows.row(slots[g]);
#pragma unroll
      for (int i = 0; i < 4; ++i) codes[g][i] = read16(row + (4 * kHalf + i) * 64 + part * 16);
      scales[g] = read8(row + kCudaLatent + 8 * kHalf);
      if constexpr (kHalf == 0) {
        rope[g][0] = read16(row + kCudaLatent + 16 + part * 32);
        rope[g][1] = read16(row + kCudaLatent + 16 + part * 32 + 16);
      }
    }
  }

  __device__ __forceinline__ void clear(int g) {
#pragma unroll
    for (int i = 0; i < 4; ++i) codes[g][i] = {};
    scales[g] = {};
    if constexpr (kHalf == 0) rope[g][0] = rope[g][1] = {};
  }

  __device__ __forceinline__ void store(Tile& tile) const {
    const int lane = static_cast<int>(threadIdx.x) % 32, row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
    const int low = (2 * (lane % 4) ^ lane / 4) * 16, high = low ^ 16;
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      uint8_t* const at = tile.pieces[4 * kHalf] + (row + 8 * g) * 128;
#pragma unroll
      for (int i = 0; i < 4; ++i)
        write_codes(at + i * kPiece + low, at + i * kPiece + high, codes[g][i],
                    scale_pair(i < 2 ? scales[g].x : scales[g].y));
      if constexpr (kHalf == 0) {
        write16(at + 8 * kPiece + low, rope[g][0]);
        write16(at + 8 * kPiece + high, rope[g][1]);
      }
    }
  }
};

__device__ __forceinline__ void read_slots(const Rows& rows, int tile, int (&slots)[2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = static_cast<int>(threadIdx.x) % 128 / 32 * 16 + lane / 4;
  slots[0] = rows.slot(tile * kCudaTile + row);
  slots[1] = rows.slot(tile * kCudaTile + row + 8);
}

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
