#pragma once
// Attention over the selected cache rows with the keys and values of each head expanded from the latent
// (mla = expanded). Equal to head_projection, sparse_attention, head_projection in exact arithmetic; another
// order of roundings.
//
//   K_h, V_h = weight rows [h (nope + value), + nope) and the next `value` rows          [., latent]
//   k[h,j,d] = round(sum_c row_j[c] K_h[d,c])      v[h,j,d] = round(sum_c row_j[c] V_h[d,c])
//   score[t,h,j] = (sum_d q[t,h,d] * k[h,j,d] + sum_r q[t,h,nope + r] * row_j[latent + r]) * scale
//   p = softmax over j;   out[t,h,d] = sum_j p[j] * v[h,j,d];   row_j = cache[sequence(t), selected[t,j]]
//
//   q         [tokens, heads, nope + rope]          activation   rotated; token and head strides free
//   weight    [heads * (nope + value), latent]      f32, bf16 or e4m3 blocks: kv_b
//   cache     [sequences, context] of LatentRow     as latent_cache says
//   selected  [tokens, topk]                        i32          as sparse_attention
//   places    [tokens]                              position < context
//   out       [tokens, heads, value]                activation   every element written
//
// Rounding   k and v one sum each (reference: double, ascending, rounded to fp32 once); weights at their
//            exact values where the activation is fp32, else bf16(w), code * scale too, as in
//            head_projection; round() is to the activation's type; then as sparse_attention. mma = hopper:
//            k and v one accumulation each by tensor cores, scores over nope, then rope.
// NaN, empty, errors   as sparse_attention.
// Tolerance  u = 2^-24: k within (latent / 16 + 8) u * sum |row||K|, and v likewise, then a step of the
//            activation's type where the two sides round apart; scores within what that makes of them; then
//            as sparse_attention. expanded_attention_audit.cpp has it.
// Source     DeepSeek-V3.2-Exp inference/model.py, MLA.forward (the prefill branch).

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::expanded_attention {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t nope = 0;
  int64_t rope = 0;
  int64_t value = 0;
  int64_t latent = 0;
  int64_t topk = 0;
  float scale = 0.0f;
  MatrixFormat weight;
  int64_t sequences = 0;
  int64_t context = 0;
  int64_t page_tokens = 0;  // of a cache in pages (core/cache_pages.h); 0: a sequence's rows lie together
};

struct Args {
  ConstTensor<3> q;
  const PreparedMatrix* weight = nullptr;
  ConstLatentRows cache;
  View<const int32_t, 2> selected;
  View<const TokenPlace, 1> places;
  Tensor<3> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

LatentRow row_of(const Problem& problem);            // of the cache
WeightReading reading_of(const Numerics& numerics);  // of kv_b
void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCuda;  // any GPU, slowly: sums as the reference

}  // namespace fulgurite::expanded_attention
