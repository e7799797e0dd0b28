#pragma once
// Hopper's warpgroup matrix instruction, bf16 x bf16 -> fp32: D[64, N] = A[64, 16] B[16, N] (+ D). D, the order of
// calls and wgmma_fence, _commit, _wait are those of wgmma.h; core/tensor_core.h has how it sums.
//
// Tiles in shared memory have rows of 128 bytes (64 values), 16-byte pieces at piece ^ (row % 8), aligned to 1024
// bytes. The same tile serves as either
//   kAlong     rows are rows of A (columns of B), and the 64 values lie along the sum:    wgmma_operand(tile);
//              16 columns further along the sum, the descriptor is 2 larger
//   kAcross    rows are met one after the other by the sum, and the 64 values are rows of A (columns of B):
//              wgmma_across(tile, bytes from one tile of 64 to the next); 16 rows further it is 128 larger

#include "fulgurite/cuda/wgmma.h"

namespace fulgurite::cuda {

enum class Lie : int { kAlong = 0, kAcross = 1 };

__device__ __forceinline__ uint64_t wgmma_across(const void* tile, uint32_t bytes_to_next) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 >> 4} << 32;  // bytes from eight rows to the next eight
  return kSwizzle128 | kEightRows | uint64_t{bytes_to_next >> 4} << 16 |
         (shared_address(tile) & 0x3FFFF) >> 4;
}

template <int N>
struct WgmmaBf16;

#define FULGURITE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FULGURITE_D16(i) FULGURITE_D4(i), FULGURITE_D4(i + 4), FULGURITE_D4(i + 8), FULGURITE_D4(i + 12)
#define FULGURITE_D64(i) FULGURITE_D16(i), FULGURITE_D16(i + 16), FULGURITE_D16(i + 32), FULGURITE_D16(i + 48)

template <>
struct WgmmaBf16<8> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[4], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3}, "
        "%4, %5, p, 1, 1, %7, %8; }\n"
        : FULGURITE_D4(0)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<16> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[8], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7}, "
        "%8, %9, p, 1, 1, %11, %12; }\n"
        : FULGURITE_D4(0), FULGURITE_D4(4)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<32> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[16], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
        "%16, %17, p, 1, 1, %19, %20; }\n"
        : FULGURITE_D16(0)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<40> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[20], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %22, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n40k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19}, "
        "%20, %21, p, 1, 1, %23, %24; }\n"
        : FULGURITE_D16(0), FULGURITE_D4(16)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<48> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[24], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %26, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23}, "
        "%24, %25, p, 1, 1, %27, %28; }\n"
        : FULGURITE_D16(0), FULGURITE_D4(16), FULGURITE_D4(20)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<64> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, p, 1, 1, %35, %36; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<80> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[40], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %42, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39}, "
        "%40, %41, p, 1, 1, %43, %44; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16), FULGURITE_D4(32), FULGURITE_D4(36)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<96> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[48], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %50, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "%48, %49, p, 1, 1, %51, %52; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16), FULGURITE_D16(32)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<128> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
        "%64, %65, p, 1, 1, %67, %68; }\n"
        : FULGURITE_D64(0)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }
};

template <>
struct WgmmaBf16<256> {
  template <Lie kA, Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[128], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "%128, %129, p, 1, 1, %131, %132; }\n"
        : FULGURITE_D64(0), FULGURITE_D64(64)
        : "l"(a), "l"(b), "r"(add), "n"(static_cast<int>(kA)), "n"(static_cast<int>(kB)));
  }

  // A from registers: two bf16 each, of rows g, g + 8, g, g + 8 of the warp's 16 at columns 2 t, 2 t + 1 (the last
  // two: 2 t + 8, 2 t + 9), with g = lane / 4 and t = lane % 4: as D holds them.
  template <Lie kB>
  static __device__ __forceinline__ void multiply(float (&d)[128], const uint32_t (&a)[4], uint64_t b,
                                                  int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %133, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
        "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
        "{%128, %129, %130, %131}, %132, p, 1, 1, %134; }\n"
        : FULGURITE_D64(0), FULGURITE_D64(64)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add), "n"(static_cast<int>(kB)));
  }
};

#undef FULGURITE_D4
#undef FULGURITE_D16
#undef FULGURITE_D64

}  // namespace fulgurite::cuda
