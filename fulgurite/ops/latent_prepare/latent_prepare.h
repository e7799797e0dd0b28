#pragma once
// The cache row of each token: the normed latent and the rotated key part that all heads share.
//
//   row[0, latent)            = RMSNorm(kv[t, 0..latent))             weight, eps as norm
//   row[latent, latent+rope)  = RoPE_interleaved(kv[t, latent..))     at the token's position; not normed
//   written to cache[places[t].sequence, places[t].position]
//
//   kv      [tokens, latent + rope]            activation   the output of kv_a_proj_with_mqa
//   weight  [latent]                           f32
//   places  [tokens]                           all different
//   table   [positions, rope / 2]              f32, two
//   cache   [sequences, context] of LatentRow  as latent_cache says; only these tokens' rows are written
//
// Rounding   as norm and rotary, both rounded to the activation's type; then latent_cache: fp32 stores these
//            values, bf16 rounds them to bf16, fp8 quantizes the latent in groups of 128 (core/quantize.h,
//            power-of-two scales) and rounds the rotated part to bf16.
// NaN        in the latent, spoils the row's latent; in the rotated part, its pair. Empty: zero tokens write
//            nothing.
// Errors     check() throws Error naming the tensor, and the place that is not in the cache or the table.
// Tolerance  what the latents that norm's tolerance allows become in the cache, nearly always one row, and
//            then 0; 0 for the rotated part.
// Source     DeepSeek-V3.2-Exp inference/model.py, MLA.forward.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::latent_prepare {

struct Problem {
  Setting setting;
  int64_t latent = 0;
  int64_t rope = 0;
  float eps = 1e-6f;
  int64_t sequences = 0;
  int64_t context = 0;
  int64_t page_tokens = 0;  // of a cache in pages (core/cache_pages.h); 0: a sequence's rows lie together
};

struct Args {
  ConstTensor<2> kv;
  View<const float, 1> weight;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  LatentRows cache;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

// The rows that a problem's cache holds.
LatentRow row_of(const Problem& problem);

void check(const Problem& problem, const Args& args);

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // rows of 512 + 64, fp32 and bf16: the reference's bits
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::latent_prepare
