#pragma once
// How far an implementation of sparse_attention is from the reference on given inputs, and how far it may be.

#include <functional>
#include <span>
#include <vector>

#include "fulgurite/audit/report.h"
#include "fulgurite/core/interval.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {

// Runs `row` on args and compares args.out with the reference's, within a bound derived from the arithmetic.
audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

// The softmax and weighted sum of one head, which all attention shares. Of each entry of the list: the score, and an error that neither side's exceeds; value(j, c), an interval that holds either side's. `out`
// is the reference's, before its rounding to the activation's type. Returns what the two sides may differ by
// there.
struct Score {
  double value = 0.0;
  double error = 0.0;
};
Score score_of(const Setting& setting, std::span<const float> query, std::span<const float> row, float scale);
std::vector<double> attend_bound(const Setting& setting, std::span<const Score> scores,
                                 const std::function<Interval(int64_t j, int64_t c)>& value,
                                 std::span<const float> out, float sink = kNoSink);

// What a kernel of several runs (Problem::runs) adds to the bound of each column, as sparse_attention_cuda.h derives it: P rounded
// against another maximum on either side, an approximate exp an entry, a tile and a run, and truncated sums.
std::vector<double> bound_of_runs(int64_t runs, std::span<const Score> scores,
                                  const std::function<double(int64_t j, int64_t c)>& value,
                                  std::span<const float> out);

// Rounds the reference's values to the activation's type, and widens their bounds by what the rounding may
// add.
void round_expected(DType dtype, std::span<float> expected, std::span<double> bounds);

// The error of a fp32 sum of `terms` products of rounded operands, times 2^-24 * the sum of their magnitudes:
// bf16 pairs are added one after the other, fp32 operands in 16 lanes and a tree.
bool sums_pairs(const Numerics& numerics);
double sum_roundings(const Numerics& numerics, int64_t terms);
// And what is lost of it to denormals, where the magnitudes of the operands sum to `operands`.
double denormal_loss(const Setting& setting, int64_t terms, double operands);

}  // namespace fulgurite::sparse_attention
