#pragma once
// The IEEE quotient without the tests that division makes for its operands: for magnitudes from 2^-60 to 2^60, where
// nothing on the way is a denormal or an infinity. The last step rounds correctly, as division's own does
// (bench/cuda/v4_steps_probe compares them); two steps run beside others, so that a chain of quotients is shorter.

namespace fulgurite::cuda {

__device__ inline float moderate_quotient(float x, float y) {
  float r;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(y));
  const float error = __fmaf_rn(-y, r, 1.0f);
  float q = __fmul_rn(x, r);
  r = __fmaf_rn(r, error, r);
  q = __fmaf_rn(__fmaf_rn(-y, q, x), r, q);
  return __fmaf_rn(__fmaf_rn(-y, q, x), r, q);
}

}  // namespace fulgurite::cuda
