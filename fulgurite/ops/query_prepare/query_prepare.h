#pragma once
// DeepSeek-V4's queries, in place: each head's RMS norm, which has no weight, and the rotation of its last
// part.
//
//   q[t,h,i] = round(q[t,h,i] * r),   r = 1/sqrt(fp32(fp32(sum_i q[t,h,i]^2 / head_dim) + eps))
//   q[t,h, head_dim - rope..) = round(RoPE_interleaved(the same))       at the token's position
//
//   q        [tokens, heads, head_dim]  activation   token and head strides free
//   places   [tokens]
//   table    [positions, rope / 2]      f32, two
//   normed   [tokens, heads, head_dim]  f32, optional: the heads between norm and rotation
//
// Rounding   the sum of squares is double, ascending, divided by head_dim, rounded to fp32 once; 1/sqrt as
//            the knob rsqrt says: an error there moves about 185 times as many bf16 values
//            (docs/numerics.md); one product; round() is to the activation's type; then as rotary.
// NaN        in a head makes that head NaN. Empty: zero tokens or heads write nothing.
// Errors     check() throws Error naming the tensor, and the place that is not in the table.
// Tolerance  what the means give that a double sum in another order may have, as norm.
// Source     DeepSeek-V4 inference/model.py, Attention.forward.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::query_prepare {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t rope = 0;
  float eps = 1e-6f;
};

struct Args {
  Tensor<3> q;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  View<float, 3> normed;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // heads of 448 + 64, fp32 and bf16: the reference's bits
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::query_prepare
