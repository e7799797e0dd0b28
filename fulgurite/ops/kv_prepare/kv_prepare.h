#pragma once
// The window's row of each token of DeepSeek-V4, key and value in one: normed, its last part rotated, in the
// ring of its sequence.
//
//   v[0, head_dim)            = RMSNorm(kv[t])                      weight, eps as norm
//   v[head_dim - rope..)      = RoPE_interleaved(the same)          at the token's position
//   written to cache row position % ring of the token's sequence, the rest through kv_quant
//
//   kv      [tokens, head_dim]          activation   the output of wkv
//   weight  [head_dim]                  f32
//   places  [tokens]                    no two in the same row of the ring
//   table   [positions, rope / 2]       f32, two
//   cache   [sequences, ring] of KvRow  as latent_cache says; only these tokens' rows are written
//
// Rounding   as norm and rotary, both rounded to the activation's type; then core/kv_row.h: kv_quant = e4m3
//            keeps of the unrotated values what the quantizer does, in groups of 64 (power-of-two scales);
//            latent_cache fp32 stores these values, bf16 rounds them to bf16, fp8 stores codes, scales and
//            the rotated part in bf16.
// NaN        spoils the row. Empty: zero tokens write nothing.
// Errors     check() throws Error naming the tensor, and the place that is not in the cache or the table.
// Tolerance  what the rows that norm's tolerance allows become in the cache, nearly always one, and then 0.
// Source     DeepSeek-V4 inference/model.py, Attention.forward; docs/numerics.md.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/kv_row.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::kv_prepare {

struct Problem {
  Setting setting;
  int64_t head_dim = 0;
  int64_t rope = 0;
  float eps = 1e-6f;
  int64_t sequences = 0;
  int64_t ring = 0;
};

struct Args {
  ConstTensor<2> kv;
  View<const float, 1> weight;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  KvRows cache;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

// The rows that a problem's cache holds.
KvRow row_of(const Problem& problem);

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // rows of 448 + 64, fp32 and bf16: the reference's bits
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::kv_prepare
