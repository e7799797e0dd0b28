#pragma once
// Hopper's warpgroup matrix instruction, bf16 x bf16 -> fp32: D[64, N] += A[64, 16] B[N, 16]^T, A and B in shared memory
// as for e4m3 (wgmma.h): 64 columns in rows of 128 bytes; 16 columns further, the descriptor is 2 larger. D and the order
// of calls too; core/tensor_core.h says how it sums.

#include "fulgurite/cuda/wgmma.h"

namespace fulgurite::cuda {

// D += A B^T.
template <int N>
struct WgmmaBf16;

#define FULGURITE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FULGURITE_D16(i) FULGURITE_D4(i), FULGURITE_D4(i + 4), FULGURITE_D4(i + 8), FULGURITE_D4(i + 12)

template <>
struct WgmmaBf16<16> {
  static __device__ __forceinline__ void add_product(float (&d)[8], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7}, "
        "%8, %9, 1, 1, 1, 0, 0;"
        : FULGURITE_D4(0), FULGURITE_D4(4)
        : "l"(a), "l"(b));
  }
};

template <>
struct WgmmaBf16<40> {
  static __device__ __forceinline__ void add_product(float (&d)[20], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n40k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19}, "
        "%20, %21, 1, 1, 1, 0, 0;"
        : FULGURITE_D16(0), FULGURITE_D4(16)
        : "l"(a), "l"(b));
  }
};

template <>
struct WgmmaBf16<48> {
  static __device__ __forceinline__ void add_product(float (&d)[24], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n48k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23}, "
        "%24, %25, 1, 1, 1, 0, 0;"
        : FULGURITE_D16(0), FULGURITE_D4(16), FULGURITE_D4(20)
        : "l"(a), "l"(b));
  }
};

template <>
struct WgmmaBf16<64> {
  static __device__ __forceinline__ void add_product(float (&d)[32], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
        "%32, %33, 1, 1, 1, 0, 0;"
        : FULGURITE_D16(0), FULGURITE_D16(16)
        : "l"(a), "l"(b));
  }
};

template <>
struct WgmmaBf16<80> {
  static __device__ __forceinline__ void add_product(float (&d)[40], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39}, "
        "%40, %41, 1, 1, 1, 0, 0;"
        : FULGURITE_D16(0), FULGURITE_D16(16), FULGURITE_D4(32), FULGURITE_D4(36)
        : "l"(a), "l"(b));
  }
};

template <>
struct WgmmaBf16<96> {
  static __device__ __forceinline__ void add_product(float (&d)[48], uint64_t a, uint64_t b) {
    asm volatile(
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, "
        "%48, %49, 1, 1, 1, 0, 0;"
        : FULGURITE_D16(0), FULGURITE_D16(16), FULGURITE_D16(32)
        : "l"(a), "l"(b));
  }
};

#undef FULGURITE_D4
#undef FULGURITE_D16

}  // namespace fulgurite::cuda
