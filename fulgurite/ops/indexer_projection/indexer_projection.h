#pragma once
// Index key and head gate of each token, from one reading of the normed hidden state.
//
//   k[t,d]    = round( sum_i x[t,i] * wk[d,i] )
//   gate[t,h] = sum_i x[t,i] * w[h,i]            fp32 to the consumer (gate = bf16: rounded to bf16)
//
//   x     [tokens, hidden]    activation   the norm's output, never a dequantized copy; row stride free
//   wk    [head_dim, hidden]  f32, bf16 or quantized
//   w     [heads, hidden]     as stored: f32, bf16 or quantized; where gate_weight = fp8 and it is stored
//                             in no codes, e4m3 blocks (made by plan)
//   k     [tokens, head_dim]  activation   gate [tokens, heads] f32; two tensors, never one of mixed meaning
//
// Rounding   k: indexer_wk = fp32: wk at its exact value; bf16: bf16(wk), code * scale too; fp8: the fp8
//            linear (wk must be quantized). round() is to the activation's type.
//            gate: w at its exact value where the activation is fp32, else bf16(w), code * scale too;
//            gate_weight = fp8: the fp8 linear with an f32 output.
//            (activation_quant is of other operations: here these two knobs say what is quantized.)
//            Sums as in linear, and the fp8 linear is linear's; so with mma = hopper, K in Problem::order.
// NaN        stays in its row. Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  judge() in indexer_projection_audit.h: that of linear, of the same operands; gate = bf16 adds a
//            bf16 step where the two sides round apart.
// Source     DeepSeek-V3.2-Exp inference/model.py, Indexer; SGLang #23856, #26494; vLLM #38684, #38870.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::indexer_projection {

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t head_dim = 0;
  int64_t heads = 0;
  MatrixFormat wk;
  MatrixFormat gate_weight;
  int64_t largest_batch = 0;  // tokens that one call may bring
  SumOrder order{};           // of both sums, as linear's
};

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* wk = nullptr;
  const PreparedMatrix* gate_weight = nullptr;
  Tensor<2> k;
  View<float, 2> gate;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// Each output as a linear, which says how its weight is read. The gate's rounding by the knob gate comes
// after.
linear::Problem key_linear(const Problem& problem);
linear::Problem gate_linear(const Problem& problem);

// The condition of one pass over x, for the rows of wk and then those of the heads: both are met as bf16, as
// stored or rounded once (code * scale too). Refuses with the half that is not.
Support one_pass(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;      // fp32 operands, any activation type; neither output by the fp8 linear
extern const Implementation kCpuBf16;  // one pass: bf16 operands met by wk and gate together
extern const Implementation kCpuFp8;   // two linears, each of its own operands; what one pass takes too
extern const Implementation kCudaHopper;  // one pass, on tensor cores; its order: indexer_projection_cuda.h
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::indexer_projection
