#pragma once
// Attention in latent space over the selected cache rows, and only those.
//
//   score[t,h,j] = (sum_c q[t,h,c] * row_j[c] + sum_r q_rope[t,h,r] * row_j[latent + r]) * scale
//   p = softmax over j;   out[t,h,c] = sum_j p[j] * row_j[c],   c < latent
//   row_j = cache[sequence(t), selected[t,j]]
//
//   q         [tokens, heads, latent]              activation   the absorbed query; token, head strides free
//   q_rope    [tokens, heads, rope]                activation   rotated; token and head strides free
//   cache     [sequences, context] of LatentRow    as latent_cache says; row_j are its values (latent_value,
//                                                  rope_value); fp8: scales are powers of two
//   selected  [tokens, topk]                       i32          ascending positions <= position(t), at least
//                                                               one, then -1
//   slots     [tokens, topk]                       i32, of a cache in pages, optional: where the selected rows lie
//                                                  (index_select.h); a row may demand them
//   places    [tokens]                             position < context
//   out       [tokens, heads, latent]              activation   every element written
//
// Rounding   score: one sum over latent, then rope (reference: double, ascending, rounded to fp32 once),
//            times scale in fp32; qk_operands = bf16: of bf16(q) and bf16(row).
//            Softmax over tiles of softmax_tile consecutive list entries (none: one tile), from m =
//            -infinity, l = 0, O = 0. running: m' = max(m, tile max), alpha = exp(m - m') (0 for the first
//            tile), e_j = exp(s_j - m'), l = fma(l, alpha, sum e_j), O = O * alpha + sum_j p_j row_j.
//            independent: each tile with its own max, sum and O; tiles are then merged in order, m' = max(m,
//            max_i): l = fma(l, exp(m - m'), l_i * exp(max_i - m')), O = O * exp(m - m') + O_i * exp(max_i -
//            m'). p_j = e_j, or bf16(e_j) (softmax_p = bf16); softmax_denominator = rounded sums p_j, else
//            e_j. exp is the double function rounded to fp32; sums over j in the reference double, ascending,
//            rounded to fp32 once a tile; out = round(O / l), round() to the activation's type.
//            -infinity among the scores weighs nothing; where all of a head's are, the head is NaN.
//            mma = hopper (core/tensor_core.h; P, qk_operands and rows bf16): a score is one accumulation over
//            latent, then rope; P V adds a tile's entries in groups of 16 to O * alpha as it stands (running),
//            or from zero.
// NaN        a NaN or +infinity among the scores of a head makes that head of that token NaN; so does a
//            NaN in q, q_rope or a selected row.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  u = 2^-24. A score is within (latent + rope + 5) u scale * sum |q||row| of the exact one (fp32
//            operands: (latent + rope) / 16 + 10), and so are the largest ones; what that makes of p, and of
//            its rounding to bf16 where the two sides round apart, meets |row_j[c]| and the denominator; sums
//            round once an entry and a few times a tile, exp is within 1.5 ulp; bf16 pairs take denormals as
//            zeros where the instruction set does; out's rounding adds a step of its type where the two sides round apart. A kernel with
//            tiles of its own (`runs`) adds 2^-7 * sum_j p |row_j[c]|: P is rounded on both sides. sparse_attention_audit.cpp has it.
// Source     DeepSeek-V3.2-Exp inference/model.py, MLA.forward; arXiv:2512.02556, 2.1.

#include <functional>
#include <limits>
#include <span>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
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
  int64_t largest_batch = 0;  // tokens that one call may bring
  int64_t page_tokens = 0;    // of a cache in pages (core/cache_pages.h); 0: a sequence's rows lie together
  // Of a kernel that deals a list's tiles to runs, merged at the end, and whose exp is approximate (sparse_attention_cuda.h):
  // the most runs. 0: neither. The reference makes one run; the tolerance is wider.
  int64_t runs = 0;
};

struct Args {
  ConstTensor<3> q;
  ConstTensor<3> q_rope;
  ConstLatentRows cache;
  View<const int32_t, 2> selected;
  View<const TokenPlace, 1> places;
  Tensor<3> out;
  View<const int32_t, 2> slots{};
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

LatentRow row_of(const Problem& problem);  // of the cache

// What other attention shares: the clauses of `selected` and `places`, the number of entries before a list's
// padding, the slots of a tile (`all`, where all are one), and the reference's softmax and weighted sum, given
// the scores of one head: out[c] = sum_j p_j value(j, c) / l, in fp32. A slot without a key is a score of
// -infinity and values of 0. A sink is added to the denominator at the end: l + exp(sink - largest score).
inline constexpr float kNoSink = -std::numeric_limits<float>::infinity();
void check_selected(const Check& check, View<const int32_t, 2> selected, View<const TokenPlace, 1> places,
                    int64_t sequences, int64_t context);
int64_t selected_rows(View<const int32_t, 1> selected);
inline int64_t tile_slots(SoftmaxTile tile, int64_t all) {
  return tile == SoftmaxTile::k64 ? 64 : tile == SoftmaxTile::k128 ? 128 : all;
}
Support takes_mma(const Numerics& numerics);  // of the references: what tensor cores can multiply
void reference_attend(const Numerics& numerics, std::span<const float> scores,
                      const std::function<float(int64_t j, int64_t c)>& value, std::span<float> out,
                      float sink = kNoSink);

extern const Implementation kReference;
extern const Implementation kCpu;         // fp32 operands, activation fp32 or fp16
extern const Implementation kCpuPairs;    // bf16 operands, tiles of 64 or 128, running
extern const Implementation kCudaHopper;  // rows of 512 + 64 in pages, fp8 or bf16: sparse_attention_cuda.h
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::sparse_attention
