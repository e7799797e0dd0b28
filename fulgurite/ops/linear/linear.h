#pragma once
// y = x W^T.
//
//   y[t,n] = round( sum_i x[t,i] * W[n,i] )
//
//   x       [tokens, in]   activation   rows contiguous, row stride free
//   weight  [out, in]      f32, bf16, e4m3 in blocks, or fp4 (MXFP4, NVFP4), as Problem::weight says
//   y       [tokens, out]  activation, or f32 (Output::kF32: logits); every element written; no overlap with
//   x
//
// Rounding   A quantized weight with activation_quant = e4m3: the fp8 linear. Each token's columns are
//            quantized in groups of 128 (core/quantize.h; scales as activation_scale, which the planner has
//            resolved to fp32 or pow2); for each K group (columns of a scale of the weight, at most 128: of
//            a channel 128, MXFP4 32, NVFP4 16): partial = the sum of products of codes, acc = fma(partial,
//            fp32(sa * sb), acc), ascending from +0; sb is the scale, NVFP4's fp32(scale * the tensor's).
//            Otherwise one sum of x * w: w at its exact value where the activation is fp32 or the output f32
//            (the head), else bf16(w), code * scale too (reading_of). Problem::reading says otherwise.
//            The reference's sums are double over ascending i, rounded to fp32 once; an implementation sums
//            in fp32 in an order of its own that does not know the number of tokens. round() is to y's type.
//            mma = hopper: the reference sums as tensor cores do (core/tensor_core.h): each partial of the
//            fp8 linear from zero; bf16(x) * bf16(w) in one accumulation; K in Problem::order, whose parts are
//            sums of their own (fp8: of promotions). F32 weights read exactly are no operands: as exact.
// NaN        a NaN or infinity in a row of x stays in that row of y (fp8: NaN where it multiplies any code).
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor, expected and found.
// Tolerance  judge() in linear_audit.h. u = 2^-24, M = sum |x||W| (of dequantized values), n u short for
//            n u / (1 - n u): fp32: (in / 16 + 8) u M + in * 2^-149. bf16 operands: (in + 2) u M, at least
//            that of fp32, + in * 2^-149, and + 2^-126 sum (2 + |x| + |W|) where the instruction set flushes
//            denormals (core/device.h). fp8: (128 + 2 groups + 3) u M: the codes of a group, and on both
//            sides the factor and a promotion a group (NVFP4: one more for the scale). All before round(),
//            which adds one step of its type where the two sides round apart.
// Source     DeepSeek-V3.2-Exp inference/model.py, Linear; inference/kernel.py, fp8_gemm; docs/numerics.md.

#include <optional>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/tensor_core.h"

namespace fulgurite::linear {

enum class Output { kActivation, kF32 };

struct Problem {
  Setting setting;
  int64_t in = 0;
  int64_t out = 0;
  MatrixFormat weight;  // what a row's rule is asked: as stored; what it runs on: as it reads it
  Output output = Output::kActivation;
  int64_t largest_batch = 0;  // tokens that one call may bring: what workspaces are made for
  std::optional<WeightReading> reading = std::nullopt;  // unless the output's type says it
  SumOrder order{};  // mma = hopper: the kernel's order of K, for its reference
};

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* weight = nullptr;
  Tensor<2> y;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// True for the fp8 linear.
bool quantizes(const Problem& problem);
// How the weight is read where it is not the fp8 linear.
WeightReading reading_of(const Problem& problem);
// The columns of a K group of a block: 128, or the weight's block if that is narrower. Refused where neither
// divides the other.
int64_t group_columns(const MatrixFormat& weight);

// Of a GPU: rules in linear_rules.cpp, cuda_fp8 without a kernel.
extern const Implementation
    kCudaHopper;  // the fast fp8 tensor-core path of sm90; its order: linear_cuda_hopper.h
extern const Implementation kCudaBf16;     // operands of bf16 on sm90; its order: linear_cuda_bf16_order.h
extern const Implementation kCudaFp8;      // the same of others
extern const Implementation kCublasltFp8;  // NVIDIA's library, where it is there; bf16, sm90
Support supports_generic(const Problem& problem);
extern const Implementation kCuda;  // everything, scales as stored; slowly: sums as the reference

extern const Implementation kReference;
extern const Implementation kCpu;      // fp32 operands, any activation type; not the fp8 linear
extern const Implementation kCpuBf16;  // bf16 operands
extern const Implementation kCpuFp8;   // the fp8 linear, weights of e4m3 or fp4

}  // namespace fulgurite::linear
