#pragma once
// What kernels of attention share that read rows of fp8 codes: rows on their way into a tile of bf16 in shared memory, and the
// exponentials of a softmax.

#include <cstdint>

#include "fulgurite/cuda/barrier.h"

namespace fulgurite::cuda {

// --- rows ---

__device__ __forceinline__ uint4 read16(const uint8_t* at) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(at));
  return v;
}
__device__ __forceinline__ uint2 read8(const uint8_t* at) {
  uint2 v;
  asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(at));
  return v;
}

__device__ __forceinline__ uint32_t read4(const uint8_t* at) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(at));
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

// Two e4m3 codes of a word (kFirst: bytes 0, 1; kSecond: 2, 3) as bf16: their values times 2^-120, exact but
// for codes of NaN. A code's sign is spread over the byte above it, and goes to bit 15; the other seven bits
// to 10 .. 4.
enum class Pair : uint32_t { kFirst = 0x9180, kSecond = 0xB3A2 };
template <Pair kPair>
__device__ __forceinline__ uint32_t code_pair(uint32_t word) {
  uint32_t spread;
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(spread) : "r"(word), "n"(static_cast<uint32_t>(kPair)));
  return spread << 4 & 0x87F087F0u;
}

// Bit 7 of a byte is set if that byte of the word is a code of NaN, 0x7F or 0xFF.
__device__ __forceinline__ uint32_t nan_codes(uint32_t word) { return (word & 0x7F7F7F7Fu) + 0x01010101u; }

constexpr uint32_t kTwo120 = 0x7B807B80u;

// 16 codes of one scale become 16 bf16 values, in two 16-byte pieces of a row of the tile. A NaN among them
// makes all NaN: what reads the row is NaN in any case.
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

__device__ __forceinline__ void copy16(uint8_t* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
               : "memory");
}
__device__ __forceinline__ void copies_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void copies_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// One arrival, when all copies of this thread so far are there.
__device__ __forceinline__ void barrier_arrive_after_copies(Barrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
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

// The largest so far and of row r (0: g, 1: g + 8) of a tile of 64 keys' scores, as wgmma leaves them.
__device__ __forceinline__ float largest_of_row(const float (&scores)[32], int r, float so_far) {
#pragma unroll
  for (int j = 0; j < 8; ++j) so_far = fmaxf(so_far, fmaxf(scores[4 * j + 2 * r], scores[4 * j + 2 * r + 1]));
  so_far = fmaxf(so_far, __shfl_xor_sync(~0u, so_far, 1));
  return fmaxf(so_far, __shfl_xor_sync(~0u, so_far, 2));
}

// --- matrices of a warp ---

// Four 8 x 8 matrices of bf16, a row of 16 bytes each at `address` of lanes 0 .. 7, 8 .. 15, ...
__device__ __forceinline__ void write_matrices(uint32_t address, const uint32_t (&m)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(m[0]),
               "r"(m[1]), "r"(m[2]), "r"(m[3])
               : "memory");
}
// Two, transposed.
__device__ __forceinline__ void write_matrices_across(uint32_t address, uint32_t m0, uint32_t m1) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared.b16 [%0], {%1, %2};" ::"r"(address), "r"(m0),
               "r"(m1)
               : "memory");
}

}  // namespace fulgurite::cuda
