#pragma once
// The lightning indexer's choice: the cache positions with the largest index logits, exactly.
//
//   L[t,s] = sum over heads ascending of weights[t,h] * max(0, sum_d q[t,h,d] * key_cache[seq(t), s, d]),
//            s <= position(t)
//   selected[t] = the min(topk, position(t) + 1) positions of the largest L[t,:], in ascending order of
//                 position, then -1
//
//   q          [tokens, heads, head_dim]        activation (index_quant = none); token and head strides free
//   weights    [tokens, heads]                  f32
//   key_cache  [sequences, context, head_dim]   f32; rows 0..position(t) must have been written
//   places     [tokens]                         position < context
//   selected   [tokens, topk]                   i32   every element written
//   scores     [tokens, context]                f32, optional: L, and -infinity where s is not visible
//
// Rounding   the dot product is one sum (reference: double, ascending, rounded once); the head sum is fp32,
//            acc = fma(weight, relu, acc), ascending from +0. The CPU's head sum rounds the product too.
// Ties       equal scores go to the lower position (knob ties = higher: to the higher). -0 equals +0. A NaN
//            ranks below -infinity, NaNs among themselves by position. max(0, NaN) is NaN.
// Memory     a tile of logits and the candidates, never [tokens, context].
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  of a score: (head_dim / 16 + 8 + 2 * heads) * 2^-24 * sum_h |w| sum_d |q||k|; of the
//            choice, given scores: 0.
// Source     arXiv:2512.02556, 2.1; DeepSeek-V3.2-Exp inference/model.py, Indexer.forward.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::index_select {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t topk = 0;
  int64_t sequences = 0;
  int64_t context = 0;
};

struct Args {
  ConstTensor<3> q;
  View<const float, 2> weights;
  ConstTensor<3> key_cache;
  View<const TokenPlace, 1> places;
  View<int32_t, 2> selected;
  View<float, 2> scores;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// An unsigned key that orders (score, position) as the contract says: the larger key is chosen first. One
// definition for references and kernels: score in the upper 32 bits, position in the lower.
uint64_t rank_key(float score, int32_t position, Ties ties);
int32_t position_of(uint64_t key, Ties ties);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::index_select
