#pragma once
// Hopper's warpgroup matrix instruction, bf16 x bf16 -> fp32: D[64, N] = A[64, 16] B[N, 16]^T (+ D), operands in
// shared memory as wgmma.h has them, which says how D lies and in which order to call; 16 columns are 32 bytes.
// A may lie the other way, kColumns: a row of 128 bytes holds 64 rows of A at one column. Its tile begins at a
// multiple of 1024 bytes too, and 16 columns further its descriptor is 128 larger.

#include "fulgurite/cuda/wgmma.h"

namespace fulgurite::cuda {

enum class MajorOfA { kRows, kColumns };

// D = A B^T, or D += A B^T where `add` is 1.
template <int N, MajorOfA kMajor>
struct WgmmaBf16;

#define FULGURITE_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define FULGURITE_D16(i) FULGURITE_D4(i), FULGURITE_D4(i + 4), FULGURITE_D4(i + 8), FULGURITE_D4(i + 12)

template <MajorOfA kMajor>
struct WgmmaBf16<8, kMajor> {
  static __device__ __forceinline__ void multiply(float (&d)[4], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %6, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3"
        "}, "
        "%4, %5, p, 1, 1, %7, 0; }\n"
        : FULGURITE_D4(0)
        : "l"(a), "l"(b), "r"(add), "n"(kMajor == MajorOfA::kColumns ? 1 : 0));
  }
};

template <MajorOfA kMajor>
struct WgmmaBf16<16, kMajor> {
  static __device__ __forceinline__ void multiply(float (&d)[8], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %10, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7"
        "}, "
        "%8, %9, p, 1, 1, %11, 0; }\n"
        : FULGURITE_D4(0), FULGURITE_D4(4)
        : "l"(a), "l"(b), "r"(add), "n"(kMajor == MajorOfA::kColumns ? 1 : 0));
  }
};

template <MajorOfA kMajor>
struct WgmmaBf16<32, kMajor> {
  static __device__ __forceinline__ void multiply(float (&d)[16], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %18, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
        "}, "
        "%16, %17, p, 1, 1, %19, 0; }\n"
        : FULGURITE_D16(0)
        : "l"(a), "l"(b), "r"(add), "n"(kMajor == MajorOfA::kColumns ? 1 : 0));
  }
};

template <MajorOfA kMajor>
struct WgmmaBf16<64, kMajor> {
  static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, "
        "%32, %33, p, 1, 1, %35, 0; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16)
        : "l"(a), "l"(b), "r"(add), "n"(kMajor == MajorOfA::kColumns ? 1 : 0));
  }
};

template <MajorOfA kMajor>
struct WgmmaBf16<128, kMajor> {
  static __device__ __forceinline__ void multiply(float (&d)[64], uint64_t a, uint64_t b, int add) {
    asm volatile(
        "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
        "}, "
        "%64, %65, p, 1, 1, %67, 0; }\n"
        : FULGURITE_D16(0), FULGURITE_D16(16), FULGURITE_D16(32), FULGURITE_D16(48)
        : "l"(a), "l"(b), "r"(add), "n"(kMajor == MajorOfA::kColumns ? 1 : 0));
  }
};

#undef FULGURITE_D4
#undef FULGURITE_D16

}  // namespace fulgurite::cuda
