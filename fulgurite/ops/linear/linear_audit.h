#pragma once
// Runs an implementation and the reference on the same inputs, and compares.

#include <vector>

#include "fulgurite/audit/report.h"
#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {

// The exact sum of an element of y, and how far from it an implementation's and the reference's may be before
// they are rounded (the contract's Tolerance).
struct SumBound {
  double sum = 0.0;
  double actual = 0.0;
  double reference = 0.0;
};

// Of every element of y, row-major.
std::vector<SumBound> sum_bounds(const Problem& problem, const ConstTensor<2>& x,
                                 const PreparedMatrix& weight);

// What `roundings` in a row make of 1, less 1: n u / (1 - n u), u = 2^-24.
double growth(double roundings);

// What denormals cost a sum of `terms` products of bf16 pairs: a step each, and where they are flushed an
// operand, a product and a sum each. `operands` is the sum of |x| + |W|.
double denormal_loss(Isa isa, int64_t terms, double operands);
// The same of a product that `problem` says.
double denormal_loss(const Problem& problem, double operands);
// How many roundings make the scale of a group of the weight.
double scale_roundings(const MatrixFormat& weight);

// How far apart the two values may be once they are rounded to `type`; 0 where the sum is not finite.
double rounded_bound(const SumBound& bound, DType type);

audit::OpReport judge(const Implementation& row, const Problem& problem, const Args& args, const Lane& lane);

}  // namespace fulgurite::linear
