#pragma once
// Which experts a token goes to, and with what weight (DeepSeek's noaux_tc: group-limited, bias for choosing
// only; in the hash layers of DeepSeek-V4 the token's id chooses).
//
//   l = x W^T;  s = score(l);  z = s + bias
//   a group's score is the sum of its two largest z (its only z where it has one expert); the best
//   `groups_kept` groups stay
//   expert_ids[t] = the experts_per_token largest z of the groups that stay, ascending id
//                   hashed: hash_table[ids[t]], ascending id (no groups, no bias)
//   expert_weights[t,e] = (s_e / sum of the chosen s, ascending id) * factor
//
//   x               [tokens, hidden]             activation
//   weight          [experts, hidden]            f32 or bf16, as stored
//   bias            [experts]                    f32   (hashed: extent 0)
//   ids             [tokens]                     i32   hashed alone: in [0, vocabulary)
//   hash_table      [vocabulary, experts_per_token]  i64   hashed alone
//   expert_ids      [tokens, experts_per_token]  i32
//   expert_weights  [tokens, experts_per_token]  f32, in the order of the ids
//
// Rounding   l is one sum of x * W, both at their stored values (reference: double, ascending, rounded to
//            fp32 once); the rest fp32 as written, but for the score, in double and rounded once as a whole:
//              kSigmoid       1 / (1 + exp(-l))
//              kSqrtSoftplus  sqrt(softplus(l)), softplus(l) = l above 20, else log1p(exp(l)), in three steps:
//                             fp32(exp), fp32(log1p), fp32(sqrt), each the double function rounded once
//            mma = hopper: a bf16 weight (and activation) is summed as tensor cores do
//            (core/tensor_core.h); products of an F32 weight are not theirs, and stay exact.
// Ties       to the lower group, to the lower expert. NaN ranks below everything.
// Hash table Rows name different experts in [0, experts), in any order. Who loads a table refuses others; check()
//            looks at the rows that its tokens use, and throws.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  audit in router_audit.h. u = 2^-24, M = sum |x||W|; l: d = (hidden / 16 + 8) u M + hidden *
//            2^-149; bf16 operands: d = (hidden + 2) u M + hidden * 2^-149, + 2^-126 sum (2 + |x| +
//            |W|) where the instruction set flushes denormals (core/device.h). An expert or a group may be
//            chosen otherwise only where z within that error leaves its rank in doubt. s: 6 u of itself, and 0 below 2^-126 (an
//            exp of 2 ulp in fp32, which may overflow, a sum and a quotient); of kSqrtSoftplus softplus is 8 u of
//            itself and 0 below 2^-126 (exp and log1p of 2 ulp), the root a rounding. Weights of the chosen: within what
//            s(l - d) and s(l + d) span, + (experts_per_token + 4) u. Given s, all is exact. A token whose M is beyond half of fp32's range
//            is not judged.
// Source     DeepSeek-V3.2-Exp inference/model.py, Gate.forward; arXiv:2412.19437, 2.1.2; DeepSeek-V4-Flash
//            inference/model.py, Gate.forward.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::router {

enum class Scoring { kSigmoid, kSqrtSoftplus };

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t experts = 0;
  int64_t groups = 1;
  int64_t groups_kept = 1;
  int64_t experts_per_token = 0;
  float factor = 1.0f;
  MatrixFormat weight;
  Scoring scoring = Scoring::kSigmoid;
  bool hashed = false;     // the table chooses; groups and groups_kept are 1
  int64_t vocabulary = 0;  // rows of the table
};

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* weight = nullptr;
  View<const float, 1> bias;
  View<int32_t, 2> expert_ids;
  View<float, 2> expert_weights;
  View<const int32_t, 1> ids{};
  View<const int64_t, 2> hash_table{};
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;         // fp32 operands, any activation type
extern const Implementation kCpuBf16;     // bf16 operands (a bf16 activation and weight)
extern const Implementation kCudaHopper;  // fp32 and bf16, double sums in another order
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::router
