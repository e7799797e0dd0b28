#pragma once
// The comparisons of the public checks of DeepSeek-V4 (pypto-lib: ratio_allclose and ratio_reldiff): a share of
// the elements may be beyond a bound.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace fulgurite::test {

// The share of elements beyond the bound, and the largest of their relative differences; how many differ at
// all, and the relative L2 of the difference.
struct Distance {
  double beyond = 0.0, worst = 0.0;
  int64_t differ = 0;
  double relative_l2 = 0.0;
};

template <class Bad>
Distance distance(const std::vector<float>& actual, const std::vector<float>& expected, const Bad& bad) {
  EXPECT_EQ(actual.size(), expected.size());
  Distance found;
  double difference = 0.0, norm = 0.0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double a = actual[i], e = expected[i], d = std::fabs(a - e);
    EXPECT_TRUE(std::isfinite(a) && std::isfinite(e)) << i;
    difference += d * d;
    norm += e * e;
    found.differ += d > 0.0;
    if (!bad(a, e, d)) continue;
    found.beyond += 1.0 / static_cast<double>(expected.size());
    found.worst = std::max(found.worst, d / std::max(std::fabs(a), std::fabs(e)));
  }
  found.relative_l2 = norm > 0.0 ? std::sqrt(difference / norm) : difference;
  return found;
}

// |a - e| > absolute + relative * |e|.
struct Bound {
  double absolute, relative;
};
inline Distance beyond(const std::vector<float>& actual, const std::vector<float>& expected, Bound bound) {
  return distance(actual, expected, [&](double, double e, double d) {
    return d > bound.absolute + bound.relative * std::fabs(e);
  });
}

// d = |a - e| >= 3e-3 and d / max(|a|, |e|) > 3e-3.
inline Distance of_output(const std::vector<float>& actual, const std::vector<float>& expected) {
  return distance(actual, expected, [](double a, double e, double d) {
    return d >= 3e-3 && d / std::max({std::fabs(a), std::fabs(e), 0x1p-14 / 3e-3}) > 3e-3;
  });
}

}  // namespace fulgurite::test
