#pragma once
// The largest logits of each row, and what all of them weigh together: all that a sampler needs of a vocabulary, for most
// draws (execute/sampler.h). Logits that lie in a GPU's memory stay there.
//
//   logits        [rows, vocabulary]  f32   any row stride
//   temperatures  [rows]              f64   0: no total is wanted
//   ids           [rows, count]       i32   of the `count` largest, ascending; then -1. count at most Problem::most
//   values        [rows, count]       f32   their logits, -0 as +0; then 0
//   totals        [rows]              f64   sum of exp((logit - largest) / temperature); 0 at temperature 0
//   numbers       [rows]              i32   how many logits are numbers
//
// Choice     exact: larger first, of equals (-0 is +0) the lower id; NaN is never chosen and weighs nothing, infinities are numbers.
// Rounding   a weight is exp of (logit - largest) / temperature, both operations in double; the largest weighs 1, infinite or not. The
//            reference sums in double over ascending ids; an implementation in an order of its own, which does not know the
//            number of rows, with an exp of its own of at most one unit in the last place.
// Empty      zero rows write nothing.
// Errors     check() throws Error naming the tensor.
// Tolerance  of totals: weight_slack(numbers) times the total; everything else 0.

#include <bit>
#include <cmath>
#include <cstdint>

#include "fulgurite/core/any_view.h"
#include "fulgurite/core/host_device.h"
#include "fulgurite/core/implementation.h"

namespace fulgurite::largest_logits {

struct Problem {
  Setting setting;
  int64_t vocabulary = 0;
  int64_t most = 0;          // of the largest, that a call may ask for
  int64_t largest_rows = 0;  // that one call may bring
};

struct Args {
  View<const float, 2> logits;
  View<const double, 1> temperatures;
  View<int32_t, 2> ids;
  View<float, 2> values;
  View<double, 1> totals;
  View<int32_t, 1> numbers;
};

using Implementation = fulgurite::Implementation<Problem, Args>;

void check(const Problem& problem, const Args& args);

// How far two sums of the same `numbers` weights may lie apart, relative to either: each of two orders rounds numbers - 1 times by
// 2^-53, each of two exponentials once by 2^-52; weights below 2^-1022 lose less than the total's 1 lets see.
inline double weight_slack(int64_t numbers) { return static_cast<double>(2 * numbers + 8) * 0x1p-53; }

// exp((logit - largest) / temperature).
FULGURITE_HOST_DEVICE inline double weight(float logit, float largest, double temperature) {
  if (logit == largest) return 1.0;  // also where it is infinite
  return std::exp((static_cast<double>(logit) - static_cast<double>(largest)) / temperature);
}

// Orders as the choice does; 0 for NaN alone.
FULGURITE_HOST_DEVICE inline uint32_t key_of(float logit) {
  if (logit != logit) return 0;
  const uint32_t bits = std::bit_cast<uint32_t>(logit + 0.0f);  // -0 is +0
  return bits ^ ((bits >> 31) != 0 ? 0xFFFFFFFFu : 0x80000000u);
}
FULGURITE_HOST_DEVICE inline float logit_of(uint32_t key) {
  return std::bit_cast<float>(key ^ ((key >> 31) != 0 ? 0x80000000u : 0xFFFFFFFFu));
}

extern const Implementation kReference;
extern const Implementation kCpu;
extern const Implementation kCudaHopper;  // one launch
extern const Implementation kCuda;        // any GPU, in many launches

}  // namespace fulgurite::largest_logits
