#pragma once
// Sums as Hopper's tensor cores make them, bit for bit (mma = hopper), in integers.
//
// One matrix instruction adds a group of consecutive products to an accumulator: 32 of e4m3, 16 of bf16 or fp16.
//   1. Every product is exact; its exponent is the sum of its factors' stored exponents (a denormal has that of
//      the smallest normal number; the product of two significands is not normalised). Zeros have none.
//   2. top = the largest of these exponents and of the accumulator's.
//   3. Each product and the accumulator is truncated toward zero to a multiple of 2^(top - F): F = 13 for e4m3,
//      25 for bf16 and fp16. They are added exactly.
//   4. The sum is truncated toward zero: to 13 fraction bits of its own exponent for e4m3, to fp32 otherwise
//      (fp32's denormals are kept).
// A sum of K products is its groups, ascending, from an accumulator of +0; what a last group lacks is zeros.
//
// Zeros      a sum of zeros, and one that is zero, is +0.
// NaN        a NaN, infinity * 0, and infinities of both signs give the NaN 0x7FFFFFFF; an infinity of one sign
//            gives itself. A sum beyond fp32's range is an infinity.
// Source     golden/hopper_mma.safetensors and golden/hopper_mma_edges.safetensors: recorded on an H100.
//            The instructions are wgmma of these types, and mma.sync of bf16; not mma.sync of e4m3.

#include <cstdint>
#include <span>
#include <vector>

#include "fulgurite/core/implementation.h"

namespace fulgurite {

enum class MmaType { kE4m3, kBf16, kFp16 };

// A factor as the instruction takes it: significand * 2^(exponent - fraction bits of the type).
struct MmaFactor {
  int16_t significand = 0;  // signed; of an infinity and of NaN see tensor_core.cpp
  int16_t exponent = 0;
};

// The factor of a value of the type, widened to fp32; the value must be one of the type.
MmaFactor mma_factor(MmaType type, float value);

// count factors: of value(0), value(1), ...
template <class Value>
std::vector<MmaFactor> mma_factors(MmaType type, int64_t count, const Value& value) {
  std::vector<MmaFactor> factors;
  factors.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) factors.push_back(mma_factor(type, value(i)));
  return factors;
}

// The accumulator after the groups of a b: from zero, or from what it held. The spans are equally long.
float mma_sum(MmaType type, std::span<const MmaFactor> a, std::span<const MmaFactor> b,
              float accumulator = 0.0f);

// The columns of one instruction.
constexpr int64_t mma_columns(MmaType type) { return type == MmaType::kE4m3 ? 32 : 16; }

// In which order a kernel meets the columns of a sum: K is dealt to `parts` accumulators, `step` consecutive
// columns to each in turn (0: all that fall to it at once), each accumulator from zero in ascending order; then
// the parts are added in fp32. A kernel's contract states its own; an instruction's group never crosses a step.
struct SumOrder {
  enum class Merge { kAscending, kPairwise };  // ((p0 + p1) + p2) + p3; (p0 + p1) + (p2 + p3)
  int64_t parts = 1;
  int64_t step = 0;  // a multiple of `unit` below
  Merge merge = Merge::kAscending;
  bool operator==(const SumOrder&) const = default;

  // The part of a column in a sum of `columns`, of which `unit` are met together.
  int64_t part_of(int64_t column, int64_t columns, int64_t unit) const;
  float merged(std::span<float> part_sums) const;  // overwrites them
};
Support takes_order(const SumOrder& order, int64_t unit);

// The whole sum in that order.
float mma_sum(MmaType type, std::span<const MmaFactor> a, std::span<const MmaFactor> b,
              const SumOrder& order);

// A refusal that holds with mma = hopper alone, and says so: tensor cores multiply no fp32.
Support on_tensor_cores(const Support& refusal);

}  // namespace fulgurite
