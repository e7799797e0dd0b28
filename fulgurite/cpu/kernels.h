#pragma once
// The inner loops that the operations' CPU implementations share, built once per instruction set from one
// source. Every build gives the same bits: 16 lanes whatever the register width, separate multiply and add,
// one order of summation that knows neither the number of tokens nor of threads. (Where the bits of an
// instruction set differ, the entry says so.)
//
//   dot       16 lanes over ascending chunks of 16 (a short last chunk is padded with zeros), lanes summed as a
//             tree of 4
//   combine   one lane a column, rows ascending

#include <cstdint>

#include "fulgurite/core/device.h"
#include "fulgurite/core/scale_rounding.h"

namespace fulgurite::cpu {

// Rows of fp32: row i is base + (index ? index[i] : i) * stride.
struct Rows {
  const float* base = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  const int32_t* index = nullptr;
};

// Rows of bf16 pairs: pair p of row i is the two elements at base + i * row_stride + p * pair_stride (strides
// in elements).
struct PairRows {
  const uint16_t* base = nullptr;
  int64_t row_stride = 0;
  int64_t pair_stride = 2;
  int64_t count = 0;
};

// Panels of 16 lanes of bf16 pairs: lane l of pair p of panel j is the pair at
// base + j * panel_stride + p * pair_stride + l (strides in pairs). Of a single panel, sums of lanes from
// `lanes` on are of no account.
struct Panels {
  const uint32_t* base = nullptr;
  int64_t panel_stride = 0;
  int64_t pair_stride = 16;
  int64_t count = 0;
  int64_t lanes = 16;
};

// Rows of e4m3 codes: row i is at base + i * stride. Of each piece that is read, the bytes `ahead` further on
// are asked for, unless that is 0.
struct CodeRows {
  const uint8_t* base = nullptr;
  int64_t stride = 0;
  int64_t ahead = 0;
};

// Rows of bf16 in groups of 128 columns: group g of row i is at base + g * group_stride + i * row_stride
// (strides in elements).
struct GroupedRows {
  const uint16_t* base = nullptr;
  int64_t group_stride = 0;
  int64_t row_stride = 0;
  int64_t count = 0;
};

// Rows of a weight as they are stored, groups of 128 columns side by side: row j is at base + j * stride
// (bytes). Codes stand for bf16(code * scales[g]) in group g, one rounding; without scales for themselves.
// While the last rows are read, those at `next` are asked for, unless that is null.
struct WeightRows {
  const uint8_t* base = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  bool coded = false;
  const float* scales = nullptr;
  const uint8_t* next = nullptr;
};

// Rows of e2m1, two codes a byte, groups of 128 columns side by side: row j is at base + j * stride, its scales at
// scales + j * scale_stride: an e8m0 for each 32 columns, or, in halves, for each 16 an e4m3 times `global`,
// rounded once. While the last rows are read, those at `next` are asked for, unless that is null.
struct E2m1Rows {
  const uint8_t* base = nullptr;
  int64_t stride = 0;
  int64_t count = 0;
  const uint8_t* scales = nullptr;
  int64_t scale_stride = 0;
  bool halves = false;
  float global = 1.0f;
  const uint8_t* next = nullptr;
};

// Where dot products go, four partial sums each: those of row i of x and row j of the weight are at
// base + 16 * (j / 4 * stride + i) + 4 * (j % 4). Without factors they go on from what is there; with, what is
// there becomes, group by group, fma(sum of the group, x_factors[g * x.count + i] * w_factors[g * w_stride + j],
// it). (Of w_factors, too, four are read at once.)
struct QuarterSums {
  float* base = nullptr;
  int64_t stride = 0;
  const float* x_factors = nullptr;
  const float* w_factors = nullptr;
  int64_t w_stride = 0;
};

// Where sums of products go: row i, panel j, lane l is base[i * stride + 16 j + l].
enum class Ending {
  kStore,       // sums start at +0 and are stored
  kAccumulate,  // sums start at what is there
  kPromote,     // sums start at +0; what is there becomes fma(sum, row_factor[i] * lane_factor[16 j + l], it)
};
struct Sums {
  float* base = nullptr;
  int64_t stride = 0;
  Ending ending = Ending::kStore;
  const float* row_factors = nullptr;  // of row i: row_factors[i * row_factor_stride]
  int64_t row_factor_stride = 1;
  const float* lane_factors = nullptr;
};

// A tile of scores of 16 heads side by side: lane l of key j is at scores[j * stride + l]. Pair i of the
// keys' weights goes to p[i * p_stride + l], an odd last one with a zero.
struct ScoreTile {
  const float* scores = nullptr;
  int64_t stride = 16;
  int64_t keys = 0;
  float scale = 1.0f;
  bool rounded_denominator = false;  // sums the weights as p has them
  uint32_t* p = nullptr;
  int64_t p_stride = 16;
};
// What goes from tile to tile, 16 lanes each: from -infinity and +0. `rescale` is what the sums before the
// tile are worth after it.
struct RunningSoftmax {
  float* largest = nullptr;
  float* denominator = nullptr;
  float* rescale = nullptr;
};

// A row of codes: those of group g, [128 g, 128 g + 128), times the fp32 at scales + 4 g.
struct ScaledCodes {
  const uint8_t* codes = nullptr;
  const uint8_t* scales = nullptr;
};

// The slots of a window of ops/compressor: of channel c, slot s has the value slots[s][c] and, for its gate,
// slots[s][gate + c].
struct Window {
  const float* const* slots = nullptr;
  int64_t count = 0;
  int64_t gate = 0;
};

struct Kernels {
  // out[i] = fp32(code * scale); S.1111.111 is NaN.
  void (*decode_e4m3)(const uint8_t* codes, int64_t count, float scale, float* out);
  void (*decode_bf16)(const uint16_t* values, int64_t count, float* out);

  // y[a * y_stride + b] = dot(x row a, w row b) over `width` elements.
  void (*dot_rows)(const Rows& x, const Rows& w, int64_t width, float* y, int64_t y_stride);

  // y row a [width] = sum over j of p[a * p_stride + j * p_step] * (row j of w), for `outputs` rows a.
  void (*combine_rows)(const float* p, int64_t p_stride, int64_t p_step, int64_t outputs, const Rows& w,
                       int64_t width, float* y, int64_t y_stride);

  // To bf16, nearest even; NaN stays NaN (quiet).
  void (*narrow_bf16)(const float* values, int64_t count, uint16_t* out);
  // core's quantize_e4m3, bit for bit: codes of one group, and its scale.
  float (*quantize_e4m3)(const float* x, int64_t count, ScaleRounding rounding, uint8_t* codes);
  // out[i] = bf16(code * scale), one rounding; scale 1: exact.
  void (*widen_e4m3)(const uint8_t* codes, int64_t count, float scale, uint16_t* out);
  // out[i] = the pair (first[i], second[i]).
  void (*interleave)(const uint16_t* first, const uint16_t* second, int64_t count, uint32_t* out);

  // One panel from up to 16 rows (`lanes`; the others become zeros) of `width` elements, an odd last pair
  // padded with zero: [pairs][16]. Row l is at base + l * stride.
  void (*pack_e4m3)(const uint8_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel);
  void (*pack_bf16)(const uint16_t* base, int64_t stride, int64_t lanes, int64_t width, uint32_t* panel);

  // Sums of products of bf16 pairs, pairs ascending; of a pair the second element first:
  // sum = fma(a, b, sum). Every build gives the same bits, except that
  //   kAvx512Bf16 (VDPBF16PS) takes denormal operands and results, and denormal sums on the way, as zeros;
  //   kAmx (TDPBF16PS) does so too, and where a.pair_stride is 2 it sums first and second elements of 16
  //   consecutive pairs apart, each from +0, adds the two, and adds that to the sum. With another
  //   pair_stride it is kAvx512Bf16. Neither order knows the number of rows or panels.
  void (*products)(const PairRows& a, int64_t pairs, const Panels& b, const Sums& c);

  // sums[l] = fma(weights[h], max(0, products[h * stride + l]), sums[l]), h ascending from sums = +0; l <
  // lanes. max(0, NaN) is NaN.
  void (*head_sums)(const float* products, int64_t stride, const float* weights, int64_t heads, int64_t lanes,
                    float* sums);

  // What the arithmetic could do at most: `rounds` rounds of it in registers alone, for a benchmark's clock.
  // The sums are added to out[16], zeros at first; returns the operations done, a multiply-add being two.
  // fp32: separate multiply and add; pairs: the multiply-add of products.
  int64_t (*peak_fp32)(int64_t rounds, float* out);
  int64_t (*peak_pairs)(int64_t rounds, float* out);

  // out[i] = a[i] + b[i]; out may be a or b.
  void (*add)(const float* a, const float* b, int64_t count, float* out);
  // The sum of squares in double: 16 lanes over ascending chunks of 16, then the lanes ascending.
  double (*sum_squares)(const float* x, int64_t count);
  // out[i] = weight[i] * (x[i] * factor), two roundings; out may be x.
  void (*scale)(const float* x, float factor, const float* weight, int64_t count, float* out);

  // values[i] = fp32(bf16(values[i])).
  void (*round_bf16)(float* values, int64_t count);
  // RoPE of `pairs` pairs of x in place, as ops/rotary/rotary.h has it: two products and one add.
  void (*rotate)(const float* cosine, const float* sine, int64_t pairs, bool interleaved, float* x);
  // The Hadamard transform of x in place: count a power of two, Sylvester order, butterflies of stride 1, 2,
  // 4, ..., each add rounded; then every value times scale.
  void (*hadamard)(float* x, int64_t count, float scale);

  // Codes of scores: larger scores have larger ones, -0 has that of +0, NaN has 0. Those of at least `least`
  // are written to codes, in order, with their positions first + i; returns how many. There must be room for
  // `count`.
  int64_t (*admit)(const float* scores, int64_t count, int32_t first, uint32_t least, uint32_t* codes,
                   int32_t* positions);
  // How many values are at least `least`.
  int64_t (*count_at_least)(const uint32_t* values, int64_t count, uint32_t least);

  // A tile of the running softmax of ops/sparse_attention: bf16 weights, exp as cpu/softmax.h has it, sums
  // over ascending keys.
  void (*softmax_tile)(const ScoreTile& tile, const RunningSoftmax& state);
  // values[i] = values[i] * factor.
  void (*multiply)(float* values, float factor, int64_t count);
  // out[i] = bf16(values[i] / divisor), the quotient rounded to fp32 first.
  void (*divide_to_bf16)(const float* values, float divisor, int64_t count, uint16_t* out);

  // out[i] = silu(gate[i]) * up[i], silu(g) = g / (1 + exp(-g)) within 6 * 2^-24 of it; out may be gate or
  // up.
  void (*silu_mul)(const float* gate, const float* up, int64_t count, float* out);
  // out[i] = fma(factor, values[i], out[i]).
  void (*add_scaled)(const float* values, float factor, int64_t count, float* out);

  // products with panels that need not be in memory, made for up to eight rows of a.
  // Lanes are `lanes` columns of `rows` <= 128 rows; pair p of a lane is bf16(code * scale) of rows 2p and
  // 2p + 1, an odd last one with a zero. What is written to lanes beyond `lanes` is of no account.
  void (*products_columns)(const PairRows& a, const CodeRows& b, int64_t lanes, int64_t rows, float scale,
                           const Sums& c);

  // widen_e4m3 of two rows, and the two interleaved.
  void (*widen_two)(const ScaledCodes& first, const ScaledCodes& second, int64_t width, uint16_t* first_out,
                    uint16_t* second_out, uint32_t* pairs);
  // largest[l] = max(largest[l], what softmax_tile finds to be the largest of lane l), NaN beside.
  void (*largest_scores)(const ScoreTile& tile, float* largest);
  // products (kStore, kAccumulate; the bits of kAvx512Bf16 in kAmx too), where before each `part` pairs the
  // sums of row i are multiplied by factors[i], by factors[factor_stride + i], ...
  void (*rescaled_products)(const PairRows& a, int64_t pairs, int64_t part, const float* factors,
                            int64_t factor_stride, const Panels& b, const Sums& c);
  // values[i] = fma(values[i], factors[i], addends[i]).
  void (*multiply_add)(const float* factors, const float* addends, int64_t count, float* values);

  // Dot products of rows of x with rows of a weight over whole groups: quarter q of a sum takes the group's
  // pairs q, q + 4, q + 8, ... as products takes pairs. (kAmx as kAvx512Bf16.)
  void (*dots)(const GroupedRows& x, const WeightRows& w, int64_t groups, const QuarterSums& c);
  // sums[j] = (q0 + q2) + (q1 + q3) of the quarters at quarters + j / 4 * stride + 4 * (j % 4), j < count.
  void (*sum_quarters)(const float* quarters, int64_t stride, int64_t count, float* sums);

  // fp16 to fp32, exactly, and back, nearest even, as core/fp16.h has it.
  void (*decode_fp16)(const uint16_t* values, int64_t count, float* out);
  void (*narrow_fp16)(const float* values, int64_t count, uint16_t* out);

  // out[c] = (sum p * value) / (sum p), p = exp(gate - the largest gate of c), exp as cpu/softmax.h has it; sums
  // over ascending slots from +0, a product and an add each rounded. NaN or infinity in a gate: NaN; a gate of
  // -infinity beside others weighs nothing.
  void (*pool)(const Window& window, int64_t channels, float* out);

  // Whether products works in tiles (kAmx) for which weights are better packed than met along their rows.
  bool prefers_panels;

  // out = the codes of `blocks` times 32 columns as bf16, in the order of fp4 (operand_rows.h).
  void (*widen_e2m1)(const uint8_t* pairs, int64_t blocks, uint16_t* out);
  // dots of rows of e2m1, x being in the order of fp4; x_factors alone are read of c's factors. Quarter q of a
  // block's sum takes from +0 pairs q, q + 4, q + 8, q + 12 of the 32 columns as they lie, and is promoted:
  // fma(sum, scale * x_factor, what is there). (Of halves, the first half's columns are in quarters 0 and 1.)
  // (kAmx as kAvx512Bf16.)
  void (*dots_e2m1)(const GroupedRows& x, const E2m1Rows& w, int64_t groups, const QuarterSums& c);
  // out[i] = (silu(min(gate[i], limit)) * clamp(up[i], -limit, limit)) * factor, silu as silu_mul has it; NaN
  // passes. out may be gate or up.
  void (*silu_mul_limited)(const float* gate, const float* up, int64_t count, float limit, float factor,
                           float* out);
  // dot_rows, of exact products summed in double: eight lanes, then lane l and l + 4, l + 2, l + 1.
  void (*dot_rows_in_double)(const Rows& x, const Rows& w, int64_t width, double* y, int64_t y_stride);
};

// The loops of an instruction set that this machine has.
const Kernels& kernels(Isa isa);

// The best instruction set of this machine that the kernels are built for.
Isa best_isa();

}  // namespace fulgurite::cpu
