#pragma once
// The gated MLPs of a layer: a token's routed experts, then the shared one. A dense layer is the shared one
// alone.
//
//   g = round(gate(x)), u = round(up(x)); with a limit g = min(g, limit), u = clamp(u, -limit, limit)
//   mlp(x, w) = round(down( round((silu(g) * u) * w) )),   silu(g) = g / (1 + exp(-g))
//   out[t]    = round( sum over the token's experts, ascending id, of expert_weights[t,e] * mlp_e(x[t], 1),
//                      + mlp_shared(x[t], 1) )
//   weight_before_down (DeepSeek-V4): of mlp_e(x[t], expert_weights[t,e]) instead
//
// The shared expert has the limit where shared_clamp = on.
//
//   x               [tokens, hidden]             activation   rows contiguous, row stride free
//   expert_ids      [tokens, experts_per_token]  i32 ascending   (extent 0 x 0 where Problem::experts is 0)
//   expert_weights  [tokens, experts_per_token]  f32
//   experts         one Mlp each: gate, up [width, hidden], down [hidden, width]
//   shared          the same with shared_width; null where shared_width is 0
//   out             [tokens, hidden]             activation   every element written; no overlap with x
//
// Rounding   the three products as linear (activation_quant = e4m3: the fp8 linear; mma too); silu and the product in
//            fp32, exp the double function rounded to fp32; the sum over experts is fp32, y = fma(weight_e,
//            mlp_e, y), ascending from +0 (weight_before_down: y = y + mlp_e); then + shared, one fp32 add.
//            round() is to the activation's type.
// NaN        stays in its token; min and clamp leave it.
// Empty      zero tokens write nothing; an expert that nobody chose is not read.
// Errors     check() throws Error naming the tensor.
// Tolerance  judge() in experts_audit.h: an interval that holds every implementation's value, carried through
//            the products (errors as linear's), silu (6 u), the roundings and the quantizer, which a small
//            error may tip, and the sum over experts (u = 2^-24 of it a step). What may overflow fp32 is not
//            judged.
// Source     DeepSeek-V3.2-Exp inference/model.py, MLP, Expert, MoE; DeepSeek-V4-Flash, the same names.

#include <optional>
#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/ops/linear/linear.h"

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
  int64_t largest_batch = 0;        // tokens that one call may bring: what the workspace is made for
  std::optional<float> limit{};     // swiglu_limit, > 0
  bool weight_before_down = false;  // where a routed expert's weight is multiplied
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
// Tokens [first, first + count) alone.
Args of_tokens(const Problem& problem, const Args& args, int64_t first, int64_t count);

// The three products as what they are: linears of one expert, gate and up alike.
enum class Part { kRouted, kShared };
linear::Problem gate_problem(const Problem& problem, Part part);
linear::Problem down_problem(const Problem& problem, Part part);
DType activation_type(const Problem& problem);
// What clamps a part, infinity where nothing does.
float limit_of(const Problem& problem, Part part);

extern const Implementation kReference;
extern const Implementation kCpu;  // fp32 operands, activation fp32 or fp16
extern const Implementation
    kCpuFp8;  // the fp8 linear; a part in another format (bf16 activations): bf16 operands
extern const Implementation
    kCudaHopper;  // bf16 activations; bf16, e4m3 or MXFP4 weights, read once for eight tokens
extern const Implementation kCuda;  // any GPU, slowly: sums as the reference

}  // namespace fulgurite::experts
