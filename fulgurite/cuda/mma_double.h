#pragma once
// A warp's matrix instruction in double (sm_90): D[16 x 8] += A[16 x 16] B[16 x 8]. Its order of the 16
// products is its own; the order of columns inside it is free, as long as A and B have the same one. A token
// of a decode step is a column of B: eight of them cost one pass over the weights.

namespace fulgurite::cuda {

// With g = lane / 4 and t = lane % 4:
//   a   rows g, g + 8 at column t, then at t + 4, t + 8, t + 12
//   b   columns t, t + 4, t + 8, t + 12 of row g of the transposed B
//   d   row g at columns 2t, 2t + 1 of B, then row g + 8
__device__ inline void mma_double(double (&d)[4], const double (&a)[8], const double (&b)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7,%8,%9,%10,%11}, "
      "{%12,%13,%14,%15}, {%0,%1,%2,%3};"
      : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]), "d"(a[7]), "d"(b[0]),
        "d"(b[1]), "d"(b[2]), "d"(b[3]));
}

}  // namespace fulgurite::cuda
