#pragma once
// The lightning indexer's choice: the cache rows with the largest index logits, exactly. A row stands for `ratio`
// tokens; with ratio 1 rows are positions.
//
//   visible(t) = floor((position(t) + 1) / ratio)
//   L[t,s] = k_scale[s] * sum over heads ascending of
//                weights[t,h] * max(0, sum_d q[t,h,d] * key_cache[seq(t), s, d]),   s < visible(t);
//            k_scale only where the keys are codes
//   selected[t] = the min(topk, visible(t)) rows of the largest L[t,:], in ascending order, then -1
//
//   q          [tokens, heads, head_dim]        index_operand(numerics); token and head strides free
//   weights    [tokens, heads]                  f32
//   key_cache  [sequences, context, head_dim]   index_operand(numerics), e4m3 with a scale a row; rows
//                                               s < visible(t) must have been written
//   places     [tokens]                         visible(t) <= context
//   selected   [tokens, topk]                   i32   every element written
//   scores     [tokens, context]                f32, optional: L, and -infinity where s is not visible
//   slots      [tokens, topk]                   i32, optional, of a cache in pages: where the selected rows lie,
//                                               page * page_tokens + the row of the page; -1 as there
//
// Rounding   the dot product is one sum (reference: double, ascending, rounded once); the head sum is fp32,
//            acc = fma(weight, relu, acc), ascending from +0 (or head_order's parts, each such a sum, added as
//            it says); one product with k_scale. mma = hopper: the dot
//            product is one accumulation by tensor cores (core/tensor_core.h), of codes or bf16.
// Ties       equal scores go to the lower position (knob ties = higher: to the higher). -0 equals +0. A NaN
//            ranks below -infinity, NaNs among themselves by position. max(0, NaN) is NaN.
// Memory     a tile of logits and the candidates, never [tokens, context].
// Empty      zero tokens write nothing. A token that sees no row has -1 alone.
// Errors     check() throws Error naming the tensor.
// Tolerance  of a score: (n + 2 * heads + 2) * 2^-24 * k_scale * sum_h |w| sum_d |q||k|,
//            n = head_dim / 16 + 8 for fp32 operands, head_dim + 2 for others, and a denormal step for each
//            product; where bf16 denormals may be taken as zeros, for each head and d |w| (2^-126 + the lost
//            |q||k|). Nothing is said of a score whose sum may overflow on its way.
//            Of the choice, given scores: 0.
// Source     arXiv:2512.02556, 2.1; DeepSeek-V3.2-Exp inference/model.py, Indexer.forward.

#include <bit>
#include <cmath>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/core/token_place.h"

namespace fulgurite::index_select {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t head_dim = 0;
  int64_t topk = 0;
  int64_t sequences = 0;
  int64_t context = 0;        // rows of a sequence's cache
  int64_t largest_batch = 0;  // tokens that one call may bring
  int64_t ratio = 1;          // tokens that a row stands for
  SumOrder head_order{};      // of the head sum: a kernel's own, for its reference
  int64_t page_tokens = 0;    // of a cache in pages (core/cache_pages.h); 0: a sequence's rows lie together
};

// Rows that a token at `position` sees.
FULGURITE_HOST_DEVICE inline int64_t visible(const Problem& problem, int64_t position) {
  return (position + 1) / problem.ratio;
}

struct Args {
  ConstTensor<3> q;
  View<const float, 2> weights;
  ConstIndexKeys key_cache;
  View<const TokenPlace, 1> places;
  View<int32_t, 2> selected;
  View<float, 2> scores;
  View<int32_t, 2> slots{};
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// An unsigned key that orders (score, position) as the contract says: the larger key is chosen first. One
// definition for references and kernels: score in the upper 32 bits, position in the lower.
FULGURITE_HOST_DEVICE inline uint64_t rank_key(float score, int32_t position, Ties ties) {
  const uint32_t bits = std::bit_cast<uint32_t>(score == 0.0f ? 0.0f : score);  // -0 is +0
  const uint32_t ascending = std::isnan(score) ? 0 : (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  const auto place = static_cast<uint32_t>(position);
  return static_cast<uint64_t>(ascending) << 32 | (ties == Ties::kLower ? ~place : place);
}
int32_t position_of(uint64_t key, Ties ties);

// What `slots` holds of a selected row, or of -1.
FULGURITE_HOST_DEVICE inline int32_t slot_of(const CachePages& pages, int32_t sequence, int32_t selected) {
  if (selected < 0) return selected;
  const CachePages::Place place = pages.place(sequence, selected);
  return static_cast<int32_t>(place.part * pages.tokens + place.row);
}

extern const Implementation kReference;
extern const Implementation kCpu;       // fp32 operands
extern const Implementation kCpuPairs;  // bf16 and e4m3 operands, as pairs of bf16
extern const Implementation
    kCudaHopper;  // keys of 128: e4m3 in pages of 64, or bf16 without; its order: index_select_cuda.h
extern const Implementation kCuda;  // any GPU, slowly: sums as the reference

}  // namespace fulgurite::index_select
