#pragma once
// Index key and head gate of each token, from one reading of the normed hidden state.
//
//   k[t,d]    = round( sum_i x[t,i] * wk[d,i] )
//   gate[t,h] = sum_i x[t,i] * w[h,i]            fp32 to the consumer (gate = bf16: rounded to bf16)
//
//   x     [tokens, hidden]    activation   the norm's output, never a dequantized copy; row stride free
//   wk    [head_dim, hidden]  f32, bf16 or e4m3 blocks
//   w     [heads, hidden]     f32 or bf16, as stored
//   k     [tokens, head_dim]  activation   gate [tokens, heads] f32; two tensors, never one of mixed meaning
//
// Rounding   as linear.
// NaN        stays in its row. Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  (hidden / 16 + 8) * 2^-24 * sum |x||w| + hidden * 2^-149, before the gate's rounding to bf16.
// Source     DeepSeek-V3.2-Exp inference/model.py, Indexer; SGLang #23856, #26494; vLLM #38684, #38870.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::indexer_projection {

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t head_dim = 0;
  int64_t heads = 0;
  MatrixFormat wk;
  MatrixFormat gate_weight;
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

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::indexer_projection
