#pragma once
// One cache row for each `ratio` tokens: a softmax of each channel over the tokens of a window. Ratio 128: the
// window of entry j is tokens ratio*j .. ratio*j + ratio-1. Ratio 4 overlaps: a token's u and g have halves A
// and B, and entry j takes A of the 4 tokens before its own and B of its own; entry 0 has no A.
//
//   u[t] = wkv x[t]          g[t] = wgate x[t] + ape[position mod ratio]
//   of entry j and channel c, over the window's slots s in ascending order of tokens (A before B):
//     m = max g_s    p_s = exp(g_s - m)    e = (sum p_s * u_s) / (sum p_s)
//   row  = RoPE( RMSNorm( round(e) ) )     weight norm, eps; RoPE on the last `rope` dims, table row ratio*j
//   kEntries    entries[sequence, j] = the kv row: kv_quant of the first dims, in the form of latent_cache
//   kIndexKeys  keys[sequence, j] = index_quant( Hadamard(row) )    as indexer_prepare writes its keys
//   Entry j is made by the call that brings token ratio*j + ratio-1. An open window makes nothing.
//
//   x            [tokens, hidden]                     activation; row stride free
//   wkv, wgate   [halves * dim, hidden]               as stored, read at their exact values
//   ape          [ratio, halves * dim]                f32
//   norm         [dim]                                f32
//   places       [tokens]                             a sequence's tokens stand together, at positions one apart
//   table        [positions, rope / 2]                f32, two; the positions of tokens, not of entries
//   state        [sequences, rows, 2, halves * dim]   f32   u and g of position p at row p mod rows; rows =
//                                                     ratio * halves. Only these tokens' rows are written. A
//                                                     call goes on where the last one of the sequence ended;
//                                                     position 0 starts anew and reads no older row.
//   entries      KvRows [sequences, entries]          kEntries
//   keys         [sequences, entries, dim]            kIndexKeys: index_operand(numerics), e4m3 with scales
//   projected    [tokens, 2, halves * dim]            f32, optional: u and g of these tokens
//   pooled       [tokens, dim]                        f32, optional: e at the token that ends a window; other
//                                                     rows are not written
//
// Rounding   u and the product in g: one sum (reference: double, ascending, rounded once; mma = hopper: as
//            linear's, in Problem::order), fp32, never rounded to the activation's type; one add of ape. Then fp32 as written, sums ascending from +0, a product
//            and an add each rounded, exp the double function rounded to fp32, one division. round(e), RMSNorm
//            and RoPE are each rounded to the activation's type, as in norm and rotary; Hadamard and
//            index_quant as in indexer_prepare; kv_quant as in core/kv_row.h.
// NaN        in x or state, spoils the entries whose windows hold the token. Infinity in g: NaN.
// Batch      the same bits for any chunks, batch and threads.
// Empty      zero tokens write nothing.
// Errors     check() throws Error naming the tensor, the place that does not follow the one before it, and the
//            position that entries or table do not have.
// Tolerance  of u and g: linear's, of operands at their exact values, and half a step of the add of ape.
//            of pooled, given u and g: growth(2 slots + 6) * sum p|u| / sum p, the kernel's exp within 3 * 2^-24
//            of itself, and a denormal step for each p and product.
//            of the row, given pooled: what norm's tolerance becomes, nearly always one row, and then 0.
// Source     DeepSeek-V4 inference/model.py, Compressor.

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/cache_layout.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"
#include "fulgurite/core/kv_row.h"
#include "fulgurite/core/matrix.h"
#include "fulgurite/core/token_place.h"
#include "fulgurite/ops/linear/linear.h"
#include "fulgurite/ops/norm/norm.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::compressor {

enum class Kind { kEntries, kIndexKeys };

struct Problem {
  Setting setting;
  int64_t hidden = 0;
  int64_t ratio = 0;  // 4 or 128
  int64_t dim = 0;    // kIndexKeys: a power of two
  int64_t rope = 0;
  float eps = 1e-6f;
  Kind kind = Kind::kEntries;
  MatrixFormat wkv;
  MatrixFormat wgate;
  int64_t sequences = 0;
  int64_t entries = 0;        // rows that a sequence's cache has
  int64_t largest_batch = 0;  // tokens that one call may bring
  SumOrder order{};           // of u and g, as linear's
};

// Ratio 4 overlaps.
FULGURITE_HOST_DEVICE inline int64_t halves(const Problem& problem) { return problem.ratio == 4 ? 2 : 1; }
// Of wkv, wgate, ape and each row of the state.
FULGURITE_HOST_DEVICE inline int64_t width(const Problem& problem) { return halves(problem) * problem.dim; }
FULGURITE_HOST_DEVICE inline int64_t state_rows(const Problem& problem) {
  return halves(problem) * problem.ratio;
}

struct Args {
  ConstTensor<2> x;
  const PreparedMatrix* wkv = nullptr;
  const PreparedMatrix* wgate = nullptr;
  View<const float, 2> ape;
  View<const float, 1> norm;
  View<const TokenPlace, 1> places;
  rotary::Table table;
  View<float, 4> state;
  KvRows entries;
  IndexKeys keys;
  View<float, 3> projected;
  View<float, 2> pooled;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// Does a token at this position end a window?
FULGURITE_HOST_DEVICE inline bool ends_window(const Problem& problem, int64_t position) {
  return (position + 1) % problem.ratio == 0;
}

// u and the product in g as linears, and the norm of the rows.
linear::Problem value_linear(const Problem& problem);
linear::Problem gate_linear(const Problem& problem);
norm::Problem norm_of(const Problem& problem);

// The rows that kEntries writes.
KvRow row_of(const Problem& problem);

// The rotation of the rows: interleaved; of index keys, what the knob indexer_rope names.
rotary::Layout layout_in_force(const Problem& problem);

extern const Implementation kReference;
extern const Implementation kCpu;         // fp32 operands: any weights
extern const Implementation kCpuBf16;     // bf16 activations and weights, as pairs
extern const Implementation kCudaHopper;  // bf16; states mma = hopper and its order of K
extern const Implementation kCuda;        // any GPU, slowly: sums as the reference

}  // namespace fulgurite::compressor
