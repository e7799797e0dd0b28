#pragma once
// Attention in latent space over the selected cache rows, and only those.
//
//   score[t,h,j] = (sum_c q[t,h,c] * row_j[c] + sum_r q_rope[t,h,r] * row_j[latent + r]) * scale
//   p = softmax over j;   out[t,h,c] = sum_j p[j] * row_j[c],   c < latent
//   row_j = cache[sequence(t), selected[t,j]]
//
//   q         [tokens, heads, latent]              activation   the absorbed query; token, head strides free
//   q_rope    [tokens, heads, rope]                activation   rotated; token and head strides free
//   cache     [sequences, context, latent + rope]  f32 (latent_cache = fp32)
//   selected  [tokens, topk]                       i32          ascending positions <= position(t), at least
//                                                               one, then -1
//   places    [tokens]                             position < context
//   out       [tokens, heads, latent]              activation   every element written
//
// Rounding   score: one sum over latent, then rope (reference: double, ascending, rounded to fp32 once),
//            times scale in fp32; softmax_tile = none: p = exp(score - max) in fp32, their sum and the
//            weighted sum over j ascending (reference: double, rounded once), divided once at the end.
// NaN        a NaN or +infinity among the scores of a head makes that head of that token NaN; so does a
//            NaN in q, q_rope or a selected row.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  u = 2^-24, S = scale * max_j sum |q||row|, d = ((latent + rope) / 16 + 12) u S is the error of
//            score - max: (exp(2d) - 1 + (topk + topk / 16 + 28) u) * sum_j p |row_j[c]|, p summing to one
//            (score errors move p twice: in itself and in the denominator).
// Source     DeepSeek-V3.2-Exp inference/model.py, MLA.forward; arXiv:2512.02556, 2.1.

#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/check.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::sparse_attention {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t latent = 0;
  int64_t rope = 0;
  int64_t topk = 0;
  float scale = 0.0f;
  int64_t sequences = 0;
  int64_t context = 0;
};

struct Args {
  ConstTensor<3> q;
  ConstTensor<3> q_rope;
  ConstTensor<3> cache;
  View<const int32_t, 2> selected;
  View<const TokenPlace, 1> places;
  Tensor<3> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// What expanded_attention shares: the clauses of `selected` and `places`, the number of entries before a
// list's padding, and the reference's softmax, p[j] = exp(scores[j] - max) in place; returns their sum.
void check_selected(const Check& check, View<const int32_t, 2> selected, View<const TokenPlace, 1> places,
                    int64_t sequences, int64_t context);
int64_t selected_rows(View<const int32_t, 1> selected);
float reference_softmax(std::span<float> scores);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::sparse_attention
