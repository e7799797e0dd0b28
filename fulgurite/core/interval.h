#pragma once
// An interval that surely holds a value, carried through arithmetic and roundings: how a bound is derived
// where a small difference may or may not tip a rounding. Roundings are monotone, so an interval's ends are enough.

#include <algorithm>
#include <cmath>

#include "fulgurite/core/element.h"

namespace fulgurite {

struct Interval {
  double low = 0.0;
  double high = 0.0;

  static Interval around(double value, double error) { return {value - error, value + error}; }
  bool holds(double value) const { return low <= value && value <= high; }
  double magnitude() const { return std::max(std::abs(low), std::abs(high)); }
};

inline Interval operator+(Interval a, Interval b) { return {a.low + b.low, a.high + b.high}; }
inline Interval operator*(Interval a, Interval b) {
  const double products[] = {a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high};
  return {*std::min_element(products, products + 4), *std::max_element(products, products + 4)};
}
inline Interval operator*(Interval a, double factor) { return a * Interval{factor, factor}; }
// Widened by `error` on both sides.
inline Interval widened(Interval a, double error) { return {a.low - error, a.high + error}; }

inline double round_once(DType dtype, double value) {
  if (dtype == DType::kBF16) return to_float(to_bf16(value));
  return dtype == DType::kF16 ? to_float(to_fp16(value)) : static_cast<float>(value);
}
inline Interval rounded(DType dtype, Interval a) {
  return {round_once(dtype, a.low), round_once(dtype, a.high)};
}

}  // namespace fulgurite
