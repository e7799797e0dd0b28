#pragma once
// Hopper's warpgroup matrix instruction, e4m3 x e4m3 -> fp32: D[64, N] = A[64, 32] B[N, 32]^T (+ D), A and B in
// shared memory. How it sums is in core/tensor_core.h.
//
// Operands   rows of 128 bytes, 16-byte pieces at piece ^ (row % 8), the tile aligned to 1024 bytes (tma.h makes it).
// D          thread `lane` of warp w of the four holds, of rows 16 w + lane / 4 and 8 further:
//            d[4 j + 0, 1] the first row's columns 8 j + 2 (lane % 4) + 0, 1;  d[4 j + 2, 3] the second row's.
// Order      wgmma_fence(); products; wgmma_commit(); wgmma_wait<0>(); wgmma_result(d); only then is D read or an operand overwritten.

#include <cstdint>

#include "fulgurite/cuda/barrier.h"

namespace fulgurite::cuda {

// The tile at a shared address; 32 bytes further along its rows, the descriptor is 2 larger.
__device__ __forceinline__ uint64_t wgmma_operand(uint32_t tile) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;  // bytes from eight rows to the next eight
  constexpr uint64_t kUnused = uint64_t{1} << 16;
  return kSwizzle128 | kEightRows | kUnused | (tile & 0x3FFFFu) >> 4;
}
__device__ __forceinline__ uint64_t wgmma_operand(const void* tile) {
  return wgmma_operand(shared_address(tile));
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Moves registers between a block's warpgroups: every warp of the warpgroup takes part.
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Ties D to this point of the program: after a wait, before its first use.
template <int kCount>
__device__ __forceinline__ void wgmma_result(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// D = A B^T, or D += A B^T where `add` is 1.
template <int N>
struct WgmmaE4m3;

#define FULGURITE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FULGURITE_D16(i) FULGURITE_D4(i), FULGURITE_D4(i + 4), FULGURITE_D4(i + 8), FULGURITE_D4(i + 12)
#define FULGURITE_D64(i) FULGURITE_D16(i), FULGURITE_D16(i + 16), FULGURITE_D16(i + 32), FULGURITE_D16(i + 48)

template <>
struct WgmmaE4m3<8> {
  static __device__ __forceinline__ void multiply(float (&d)[4], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3}, "
        "%4, %5, p, 1, 1; }\n"
        : FULGURITE_D4(0)
        : "l"(a), "l"(b), "r"(add));
  }
};

template <>
struct WgmmaE4m3<16> {
  static __device__ __forceinline__ void multiply(float (&d)[8], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7}, "
        "%8, %9, p, 1, 1; }\n"
        : FULGURITE_D4(0), FULGURITE_D4(4)
        : "l"(a), "l"(b), "r"(add));
  }
};

template <>
struct WgmmaE4m3<32> {
  static __device__ __forceinline__ void multiply(float (&d)[16], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, p, 1, 1; }\n"
        : FULGURITE_D16(0)
        : "l"(a), "l"(b), "r"(add));
  }
};

template <>
struct WgmmaE4m3<64> {
  static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16)
        : "l"(a), "l"(b), "r"(add));
  }
};

template <>
struct WgmmaE4m3<128> {
  static __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1; }\n"
        : FULGURITE_D64(0)
        : "l"(a), "l"(b), "r"(add));
  }
};

template <>
struct WgmmaE4m3<256> {
  static __device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k32.f32.e4m3.e4m3 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, p, 1, 1; }\n"
        : FULGURITE_D64(0), FULGURITE_D64(64)
        : "l"(a), "l"(b), "r"(add));
  }
};

#undef FULGURITE_D4
#undef FULGURITE_D16
#undef FULGURITE_D64

}  // namespace fulgurite::cuda
