#pragma once
// Which experts a token goes to, and with what weight (DeepSeek's noaux_tc: group-limited, bias for choosing
// only).
//
//   l = x W^T;  s = sigmoid(l);  z = s + bias
//   a group's score is the sum of its two largest z (its only z where it has one expert); the best
//   `groups_kept` groups stay
//   expert_ids[t] = the experts_per_token largest z of the groups that stay, ascending id
//   expert_weights[t,e] = (s_e / sum of the chosen s, ascending id) * factor
//
//   x               [tokens, hidden]             activation
//   weight          [experts, hidden]            f32 or bf16, as stored
//   bias            [experts]                    f32
//   expert_ids      [tokens, experts_per_token]  i32
//   expert_weights  [tokens, experts_per_token]  f32, in the order of the ids
//
// Rounding   l is one sum (reference: double, ascending, rounded to fp32 once); s = fp32(1 /
//            (1 + exp(-l))) in double; the rest fp32 as written.
// Ties       to the lower group, to the lower expert. NaN ranks below everything.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  l: d = (hidden / 16 + 8) * 2^-24 * sum |x||W|; s and z: d / 4 + 2^-24 (1 + |bias|); a choice may
//            differ only where z (groups: the sum of two) at the cut differ by less than twice that; of equal
//            choices, weights: (max over the chosen of d (1 - s), twice, + (experts_per_token + 4) * 2^-24) *
//            weight; sigmoid' = s (1 - s). Given l, all is exact.
// Source     DeepSeek-V3.2-Exp inference/model.py, Gate.forward; arXiv:2412.19437, 2.1.2.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"

namespace fulgurite::router {

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t experts = 0;
  int64_t groups = 1;
  int64_t groups_kept = 1;
  int64_t experts_per_token = 0;
  float factor = 1.0f;
  MatrixFormat weight;
};

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* weight = nullptr;
  View<const float, 1> bias;
  View<int32_t, 2> expert_ids;
  View<float, 2> expert_weights;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::router
