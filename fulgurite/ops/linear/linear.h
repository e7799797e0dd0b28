#pragma once
// y = x W^T.
//
//   y[t,n] = sum_i x[t,i] * W[n,i]
//
//   x       [tokens, in]   activation   rows contiguous, row stride free
//   weight  [out, in]      f32, bf16, or e4m3 in blocks with f32 scales, as Problem::weight says
//   y       [tokens, out]  activation, or f32 (Output::kF32: logits); every element written; no overlap with x
//
// Rounding   fp32: weights at their exact values, one sum. The reference sums in double over ascending i and
//            rounds once; an implementation sums in fp32 in an order of its own that does not know the number
//            of tokens.
// NaN        a NaN or infinity in a row of x stays in that row of y.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor, expected and found.
// Tolerance  (in / 16 + 8) * 2^-24 * sum |x||W| for the fp32 CPU kernels (16 lanes, a tree of 4, weight and
//            result rounded), and in * 2^-149 for products that are denormal.
// Source     DeepSeek-V3.2-Exp inference/model.py, Linear; docs/numerics.md.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::linear {

enum class Output { kActivation, kF32 };

struct Problem {
  Setting setting;
  int64_t in = 0;
  int64_t out = 0;
  MatrixFormat weight;
  Output output = Output::kActivation;
};

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* weight = nullptr;
  Tensor<2> y;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// The knobs of the preset fp32: no rounding or quantization between operations.
Support sums_of_exact_weights(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::linear
