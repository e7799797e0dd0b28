#pragma once
// A warp's matrix instructions. D[16 x 8] += A[16 x 16] B[16 x 8] of bf16, summed as core/tensor_core.h says:
// one group of 16 columns; and D += A[16 x 32] B[32 x 8] of signed bytes, exactly. The order of columns inside
// a group is free, as long as A and B have the same one.

#include <cstdint>

namespace fulgurite::cuda {

// The operands' registers, two bf16 each. With g = lane / 4 and t = lane % 4:
//   a   rows g, g + 8, g, g + 8 at columns 2t, 2t + 1 (the last two registers: 2t + 8, 2t + 9)
//   b   columns 2t, 2t + 1 and 2t + 8, 2t + 9 of row g of the transposed B
//   d   row g at columns 2t, 2t + 1 of B, then row g + 8
__device__ inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Four bytes a register: columns 4t .. 4t + 3, then 16 + 4t .. 16 + 4t + 3; rows and d as above.
__device__ inline void mma_int8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace fulgurite::cuda
