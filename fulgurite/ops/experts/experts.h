#pragma once
// The gated MLPs of a layer: a token's routed experts, then the shared one. A dense layer is the shared one
// alone.
//
//   mlp(x)  = down( round(silu(gate(x)) * up(x)) ),   silu(g) = g / (1 + exp(-g))
//   out[t]  = round( sum over the token's experts, ascending id, of expert_weights[t,e] * mlp_e(x[t]),
//                    + mlp_shared(x[t]) )
//
//   x               [tokens, hidden]             activation   rows contiguous, row stride free
//   expert_ids      [tokens, experts_per_token]  i32 ascending   (extent 0 x 0 where Problem::experts is 0)
//   expert_weights  [tokens, experts_per_token]  f32
//   experts         one Mlp each: gate, up [width, hidden], down [hidden, width]
//   shared          the same with shared_width; null where shared_width is 0
//   out             [tokens, hidden]             activation   every element written; no overlap with x
//
// Rounding   the three products as linear; silu and the product in fp32, exp the double function rounded to
//            fp32; the sum over experts is fp32, y = fma(weight_e, mlp_e, y), ascending from +0; then +
//            shared, one fp32 add. The CPU's sum over experts rounds the product too.
// NaN        stays in its token.
// Empty      zero tokens write nothing; an expert that nobody chose is not read.
// Errors     check() throws Error naming the tensor.
// Tolerance  u = 2^-24, n(w) = (w / 16 + 8) u, g' = sum |x||gate|, u' = sum |x||up|, h = silu(g) u:
//            dh = 1.1 n(hidden) (g' |u| + |silu(g)| u' + n(hidden) g' u') + 8 u |h|; of an expert's output,
//            dy = sum |down| (dh + n(width) (|h| + dh)); of out, sum over experts of |weight| dy, + dy of the
//            shared, + 2 (experts_per_token + 1) u * (sum |weight| |mlp_e| + |mlp_shared|).
// Source     DeepSeek-V3.2-Exp inference/model.py, MLP, Expert, MoE.

#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::experts {

struct Mlp {
  PreparedMatrix gate;
  PreparedMatrix up;
  PreparedMatrix down;
};

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t experts = 0;  // 0: a dense layer
  int64_t experts_per_token = 0;
  int64_t width = 0;  // of a routed expert
  int64_t shared_width = 0;
  MatrixFormat weight;  // of the routed experts; the shared one may differ
  MatrixFormat shared_weight;
  int64_t largest_batch = 0;  // tokens that one call may bring: what the workspace is made for
};

struct Args {
  ConstTensor<2> x;
  View<const int32_t, 2> expert_ids;
  View<const float, 2> expert_weights;
  std::span<const Mlp> experts;
  const Mlp* shared = nullptr;
  Tensor<2> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::experts
