#pragma once
// The residual sum and its RMS norm.
//
//   s[t,i]   = x[t,i] + added[t,i]                 (x alone where nothing is added)
//   sum[t,i] = round(s[t,i])                       the residual stream
//   out[t,i] = round(weight[i] * (s[t,i] * r[t])),  r = 1/sqrt(fp32(fp32(sum_i s^2 / width) + eps))
//
//   x         [tokens, width]  activation
//   added     [tokens, width]  activation, optional (no data: none)
//   replaced  [tokens, width]  f32, optional: stands for s instead of x + added
//   weight    [width]          f32
//   sum       [tokens, width]  activation, optional; may be the same memory as x
//   out       [tokens, width]  activation; may be the same memory as added, or as x where sum is not asked
//                              for
//
// Rounding   s is one fp32 add; the norm reads it unrounded (norm_input = rounded: reads round(s)); the mean
//            of squares is a double sum over ascending i, divided by width, rounded to fp32 once; 1/sqrt as
//            the knob rsqrt says; two products, each rounded. round() is to the activation's type; in fp32 it
//            does nothing.
// NaN        a NaN in a row makes that row NaN. Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  sum: 0. out: what the means give that a double sum in another order may have, within
//            (2 width + 4) * 2^-53: nearly always the one, and then 0, else two neighbours in fp32.
// Source     DeepSeek-V3.2-Exp inference/model.py, RMSNorm; docs/numerics.md.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::norm {

struct Problem {
  Setting setting;
  int64_t width = 0;
  float eps = 1e-6f;
};

struct Args {
  ConstTensor<2> x;
  ConstTensor<2> added;
  View<const float, 2> replaced;
  View<const float, 1> weight;
  Tensor<2> sum;
  Tensor<2> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation
    kCudaHopper;                    // widths of multiples of 8 to 8192, fp32 and bf16: the reference's bits
extern const Implementation kCuda;  // any GPU, slowly: sums as the reference

}  // namespace fulgurite::norm
