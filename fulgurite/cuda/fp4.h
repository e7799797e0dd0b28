#pragma once
// round_to_fp4 of core/quantize.h on the device: what e2m1 codes of a group with one scale are worth.

#include "fulgurite/cuda/number.h"

namespace fulgurite::cuda {

struct Fp4Group {
  float scale, inverse;  // powers of two
  bool finite;

  // The bits of the largest magnitude, as fp32.
  __device__ explicit Fp4Group(uint32_t largest) : finite(largest < 0x7F800000u) {
    scale =
        pow2_above(__fmul_rn(fmaxf(__uint_as_float(largest), 0x1.8p-124f), static_cast<float>(1.0 / 6.0)));
    inverse = __uint_as_float((254u << 23) - __float_as_uint(scale));
  }
  // Times 2^-n divides exactly, but for quotients whose code is 0.
  __device__ float value(float x) const {
    if (!finite) return __uint_as_float(0x7FC00000u);
    const float quotient = __fmul_rn(x, inverse), magnitude = fabsf(quotient);
    const float step = magnitude < 2.0f   ? 0.5f
                       : magnitude < 4.0f ? 1.0f
                                          : 2.0f,
                per_step = magnitude < 2.0f   ? 2.0f
                           : magnitude < 4.0f ? 1.0f
                                              : 0.5f;
    const float nearest = fminf(__fmul_rn(rintf(__fmul_rn(magnitude, per_step)), step), 6.0f);
    return __fmul_rn(copysignf(nearest, quotient), scale);
  }
};

}  // namespace fulgurite::cuda
