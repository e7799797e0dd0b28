#pragma once
// The indexer's operands: query, key (written to its cache) and head weights.
//
//   q' = Hadamard( RoPE(q) )                per head; RoPE on the first `rope` dims, layout_in_force
//   k' = Hadamard( RoPE( LayerNorm(k) ) )   written to key_cache[places[t].sequence, places[t].position]
//   weights[t,h] = (gate[t,h] * heads^-1/2) * head_dim^-1/2        left to right, fp32
//
//   LayerNorm: mean = sum/n, d = x - mean, var = sum d^2 / n, y = round((d * r) * w + b),
//              r = 1/sqrt(fp32(var + eps)) as the knob rsqrt says, eps = index_norm_eps
//   Hadamard:  Sylvester order, butterflies of stride 1, 2, 4, ... in fp32, then times fp32(n^-1/2); left out
//              where the knob hadamard leaves it out (both | q alone | none)
//
//   q                 [tokens, heads, head_dim]       activation, in: the output of wq_b; in place: q'
//   k                 [tokens, head_dim]              activation
//   gate              [tokens, heads]                 f32
//   k_weight, k_bias  [head_dim]                      f32
//   places            [tokens]                        all different
//   table             [positions, rope / 2]           f32, two
//   weights           [tokens, heads]                 f32
//   key_cache         [sequences, context, head_dim]  f32 (index_quant = none); only the rows of these tokens
//                                                     are written
//   rotated_q         [tokens, heads, head_dim]       f32, optional: after RoPE and before Hadamard
//   rotated_k         [tokens, head_dim]              the same of k
//
// Rounding   sums in double over ascending index, rounded to fp32 once (mean, variance); everything else fp32
//            as written.
// NaN        stays in its token (and head). Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor, and the place that is not in the cache or the table.
// Tolerance  0: every implementation makes these roundings in this order. (An fp32 mean would be off by a
//            part of |mean| r |w|, which no bound in |d r w| covers.)
// Source     DeepSeek-V3.2-Exp inference/model.py, Indexer.forward (half-split RoPE since 2025-11-17).

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::indexer_prepare {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t head_dim = 0;  // a power of two
  int64_t rope = 0;
  rotary::Layout layout = rotary::Layout::kHalfSplit;  // the family's; the knob indexer_rope may override it
  int64_t sequences = 0;
  int64_t context = 0;
};

struct Args {
  Tensor<3> q;
  ConstTensor<2> k;
  View<const float, 2> gate;
  View<const float, 1> k_weight;
  View<const float, 1> k_bias;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  View<float, 2> weights;
  Tensor<3> key_cache;
  View<float, 3> rotated_q;
  View<float, 2> rotated_k;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// The layout in force: the family's unless the knob names one.
rotary::Layout layout_in_force(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;

}  // namespace fulgurite::indexer_prepare
