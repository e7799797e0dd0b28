#pragma once
// DeepSeek-V4's attention: one softmax over the window and the compressed entries, with a sink; a row of the
// cache is key and value at once, rotated part included.
//
//   slots(t) = the window's positions max(0, p - window + 1) .. p, ascending, then -1 up to `window` slots;
//              then entries: selected[t], ascending, -1 at its end (topk > 0: ratio 4); or all that are
//              visible, 0 .. visible - 1, visible = floor((p + 1) / ratio) (topk 0: ratio 128); or none
//              (ratio 0). p is the position of t.
//   score[t,h,j] = (sum_c q[t,h,c] * row_j[c]) * scale,   j over the slots that are not -1
//   w_j = exp(score_j) / (exp(sink[h]) + sum_i exp(score_i));   o[t,h,c] = sum_j w_j * row_j[c]
//   out = o, its last `rope` columns rotated back by p: x'[2i] = x[2i] c_i + x[2i+1] s_i,
//                                                       x'[2i+1] = x[2i+1] c_i - x[2i] s_i
//
//   q         [tokens, heads, head_dim]    activation   rotated; token and head strides free
//   sink      [heads]                      f32          not scaled
//   window    KvRows [sequences, ring]     as latent_cache says; position p is row p % ring; each window fits
//   entries   KvRows [sequences, entries]  the same form; entry j is row j (unread where ratio is 0)
//   selected  [tokens, topk]               i32          topk > 0 alone: visible entries, ascending, then -1;
//                                                       there may be none
//   places    [tokens]                     position < rows of the table; all it sees is written
//   table     [positions, rope / 2]        f32          two of them
//   out       [tokens, heads, head_dim]    activation   every element written
//
// Rounding   score: one sum (reference: double, ascending, rounded to fp32 once), times scale in fp32;
//            qk_operands = bf16: of bf16(q) and bf16(row). Softmax as in sparse_attention.h, over tiles of
//            softmax_tile consecutive slots (none: one tile), -1 ones among them: those weigh nothing, and a
//            tile of nothing else changes nothing. So a tile does not move with the chunk. softmax_p = bf16:
//            P and V are bf16 (what bf16 and fp8 rows are). The sink last: l = l + exp(sink - m), m the
//            largest score without it. o = O / l; RoPE in fp32, two products and one add; one rounding to
//            the activation's type.
// Goldens    definition(): one softmax in double. `serving`: tiles of 64, running, unrounded denominator, bf16
//            P. pypto-lib #361: serving with softmax_merge = independent, softmax_denominator = rounded,
//            qk_operands = fp32. docs/numerics.md has how far they are apart.
// NaN        a NaN or +infinity among the scores of a head makes that head of that token NaN; so does a NaN in
//            q, sink or a row that it sees. -infinity weighs nothing. A sink far above every score makes 0,
//            one of -infinity is none.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  as sparse_attention's, with the sink in the denominator and 3 u (|x[2i]| + |x[2i+1]|) of the
//            rotation; compressed_attention_audit.cpp has it. On inputs of the public checks cpu_pairs is
//            within one step of bf16 of `serving` (of the element, or of its head's root mean square).
// Source     DeepSeek-V4 inference/model.py, Attention.forward, and kernel.py, sparse_attn; pypto-lib #361.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/check.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/kv_row.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::compressed_attention {

struct Problem {
  Setting setting;
  int64_t heads = 0;
  int64_t head_dim = 0;  // even
  int64_t rope = 0;      // even: the last columns
  int64_t window = 0;    // positions that a token sees, its own among them
  int64_t ratio = 0;     // tokens of an entry; 4 and 128; 0: no entries
  int64_t topk = 0;      // entries selected; 0: all that are visible
  float scale = 0.0f;
  int64_t sequences = 0;
  int64_t ring = 0;           // rows of a sequence's window
  int64_t entries = 0;        // rows of a sequence's entries
  int64_t positions = 0;      // of the table
  int64_t largest_batch = 0;  // tokens that one call may bring
  // Of a kernel that deals a token's keys to runs, merged at the end, and whose exp is approximate
  // (compressed_attention_cuda_parts.h): the most runs. 0: neither. The reference makes one; the tolerance is wider.
  int64_t runs = 0;
};

struct Args {
  ConstTensor<3> q;
  View<const float, 1> sink;
  ConstKvRows window;
  ConstKvRows entries;
  View<const int32_t, 2> selected;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  Tensor<3> out;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

KvRow row_of(const Problem& problem);  // of both caches

// What a token at `position` sees of the window: positions first .. position.
struct Seen {
  int64_t first;
  int64_t count;
};
FULGURITE_HOST_DEVICE inline Seen window_of(const Problem& problem, int64_t position) {
  const int64_t first = position < problem.window ? 0 : position - problem.window + 1;
  return {first, position + 1 - first};
}
// Entries that it sees or, where they are selected, those of its list.
FULGURITE_HOST_DEVICE inline int64_t visible_entries(const Problem& problem, int64_t position) {
  return problem.ratio == 0 ? 0 : (position + 1) / problem.ratio;
}
FULGURITE_HOST_DEVICE inline int64_t entries_of(const Problem& problem, const Args& args, int64_t t) {
  if (problem.topk == 0) return visible_entries(problem, args.places(t).position);
  int64_t count = 0;
  while (count < problem.topk && args.selected(t, count) >= 0) ++count;
  return count;
}

// The definition: one softmax in double, nothing rounded. out [tokens, heads, head_dim].
void definition(const Problem& problem, const Args& args, View<double, 3> out);

extern const Implementation kReference;
extern const Implementation kCpu;         // fp32 operands, activation fp32 or fp16
extern const Implementation kCpuPairs;    // bf16 operands, tiles of 64 or 128, running
extern const Implementation kCudaHopper;  // serving, 8 heads and multiples: compressed_attention_cuda_parts.h
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::compressed_attention
