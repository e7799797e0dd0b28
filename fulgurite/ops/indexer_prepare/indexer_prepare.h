#pragma once
// The indexer's operands: query, key (written to its cache) and head weights. Without keys (DeepSeek-V4,
// whose index keys the compressor makes) the query and the weights alone.
//
//   q' = Hadamard( RoPE(q) )                per head; RoPE on `rope` dims from rope_first, layout_in_force
//   k' = Hadamard( RoPE( LayerNorm(k) ) )   written to key_cache[places[t].sequence, places[t].position]
//   weights[t,h] = (gate[t,h] * heads^-1/2) * head_dim^-1/2              left to right, fp32
//                = ((gate[t,h] * heads^-1/2) * q_scale[t,h]) * head_dim^-1/2   where index_quant = fp8
//
//   LayerNorm: mean = sum/n, d = x - mean, var = sum d^2 / n, y = round((d * r) * w + b),
//              r = 1/sqrt(fp32(var + eps)) as the knob rsqrt says, eps = index_norm_eps
//   Hadamard:  Sylvester order, butterflies of stride 1, 2, 4, ... in fp32, then times fp32(n^-1/2); left out
//              where the knob hadamard leaves it out (both | q alone | none)
//
//   q                 [tokens, heads, head_dim]       activation: the output of wq_b
//   q_operand         [tokens, heads, head_dim]       index_operand(numerics): q'; e4m3: its codes
//   k                 [tokens, head_dim]              activation
//   gate              [tokens, heads]                 f32
//   k_weight, k_bias  [head_dim]                      f32
//   places            [tokens]                        all different
//   table             [positions, rope / 2]           f32, two
//   weights           [tokens, heads]                 f32
//   key_cache         [sequences, context, head_dim]  index_operand(numerics), e4m3 with a scale a row; only
//                                                     the rows of these tokens are written
//   rotated_q         [tokens, heads, head_dim]       f32, optional: after RoPE and before Hadamard
//   rotated_k         [tokens, head_dim]              the same of k
//   Without keys k, k_weight, k_bias, key_cache and rotated_k are not there; gate = bf16 rounds the gate.
//
// Rounding   sums in double over ascending index, rounded to fp32 once (mean, variance); everything else fp32
//            as written; LayerNorm, RoPE and Hadamard each rounded to the activation's type.
//            index_norm = bf16: k_weight and k_bias rounded to bf16 first. Then index_quant, a vector at a
//            time: none; fp8: e4m3 with scales as index_scale says; fp4: round_to_fp4 (core/quantize.h).
// NaN        stays in its token (and head). Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor, and the place that is not in the cache or the table.
// Tolerance  0: every implementation makes these roundings in this order. (An fp32 mean would be off by a
//            part of |mean| r |w|, which no bound in |d r w| covers.)
// Source     DeepSeek-V3.2-Exp inference/model.py, Indexer.forward (half-split RoPE since 2025-11-17);
//            DeepSeek-V4 inference/model.py, Indexer (no keys, the last dims).

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
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
  bool keys = true;         // false: no k, and no key cache
  int64_t rope_first = 0;   // the first rotated dimension
  int64_t page_tokens = 0;  // of a cache in pages (core/cache_pages.h); 0: a sequence's rows lie together
};

struct Args {
  ConstTensor<3> q;
  ConstTensor<2> k;
  View<const float, 2> gate;
  View<const float, 1> k_weight;
  View<const float, 1> k_bias;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  View<float, 2> weights;
  IndexKeys key_cache;
  Tensor<3> q_operand;  // never q's memory
  View<float, 3> rotated_q;
  View<float, 2> rotated_k;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// The layout in force: the family's unless the knob names one.
rotary::Layout layout_in_force(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // e4m3 operands of 128, bf16 activations, pages of 64
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::indexer_prepare
