#pragma once
// One small matrix a head, cut from the rows of kv_b: what moves attention into latent space and back (W_UK,
// W_UV).
//
//   W_h = weight rows [h * rows_per_head + first_row, + rows)                    [rows, latent]
//   from_rows   y[t,h,c] = sum_r x[t,h,r] * W_h[r,c]      the query into latent space (W_UK)
//   to_rows     y[t,h,r] = sum_c x[t,h,c] * W_h[r,c]      the attended latent to the head's output (W_UV)
//
//   x       [tokens, heads, rows or latent]  activation   token and head strides free
//   weight  [heads * rows_per_head, latent]  f32, bf16 or e4m3 blocks: the whole of kv_b
//   y       [tokens, heads, latent or rows]  activation   every element written; no overlap with x
//
// Rounding   one sum (reference: double, ascending, rounded to fp32 once); weights at their exact values
//            where the activation is fp32, else bf16(w), code * scale too; y rounded to the activation's type.
//            mma = hopper: one accumulation of bf16 by tensor cores (core/tensor_core.h), ascending.
// NaN        a NaN or infinity in x stays in its token and head. Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  judge() in head_projection_audit.h. fp32: from_rows (rows + 8), one lane a column; to_rows
//            (latent / 16 + 8), as linear; times 2^-24 * sum |x||W|, + terms * 2^-149. bf16 operands: as
//            linear's. Before y's rounding, which adds one step of its type where the two sides round apart.
// Source     DeepSeek-V3.2-Exp inference/model.py, MLA.forward (absorbed); arXiv:2405.04434, 2.1.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::head_projection {

enum class Direction { kFromRows, kToRows };

struct Problem {
  Setting setting;
  Direction direction = Direction::kFromRows;
  int64_t heads = 0;
  int64_t rows_per_head = 0;
  int64_t first_row = 0;
  int64_t rows = 0;
  int64_t latent = 0;
  MatrixFormat weight;
  int64_t largest_batch = 0;  // tokens that one call may bring
};

struct Args {
  ConstTensor<3> x;
  const PreparedMatrix* weight = nullptr;
  Tensor<3> y;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

WeightReading reading_of(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;         // fp32 operands, activation fp32 or fp16
extern const Implementation kCpuBf16;     // bf16 operands
extern const Implementation kCudaHopper;  // sm90, of builds with CUDA: head_projection_cuda_hopper.h
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::head_projection
