#pragma once
// Is a result right? NaN and infinity are compared as masks first; every other element against its own bound,
// derived from the arithmetic by the caller. An element that is NaN on one side only is beyond any bound.

#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fulgurite::audit {

// Both NaN, both the same infinity, or both finite.
bool same_mask(double a, double b);

struct Difference {
  int64_t elements = 0;
  int64_t beyond = 0;           // elements whose difference exceeds their bound, masks included
  int64_t mask_mismatches = 0;  // NaN or infinity on one side only, or infinities of other sign
  int64_t worst = -1;  // index of the largest difference relative to its bound, or of the first mask mismatch
  double worst_share = 0.0;  // that difference / its bound; infinite for a mask mismatch
  float worst_actual = 0.0f;
  float worst_expected = 0.0f;
  double relative_l2 = 0.0;  // over the elements that are finite on both sides
  double sign_bias = 0.0;    // (higher - lower) / differing elements
  // The median bound relative to the median magnitude of what is expected, over its finite elements. From 1
  // on the comparison says next to nothing.
  double looseness = 0.0;
  bool within() const { return beyond == 0; }
};

// bound[i] >= 0; a NaN bound accepts nothing. Sizes must agree.
Difference compare(std::span<const float> actual, std::span<const float> expected,
                   std::span<const double> bound);

// "3 of 512 beyond their bound; worst at 17: 1.5 against 1.25 (4.0 x its bound); relative L2 1.2e-06; bias
// +0.10"
std::string describe(const Difference& difference);

// Values of which a few outcomes are right, compared part after part: the bound is the farthest of them.
struct PossibleValues {
  std::vector<float> actual, expected;
  std::vector<double> bound;

  void add(const std::vector<float>& is, const std::vector<float>& should_be) {
    actual.insert(actual.end(), is.begin(), is.end());
    expected.insert(expected.end(), should_be.begin(), should_be.end());
    bound.resize(expected.size(), 0.0);
  }
  // The last that were added may also be these.
  void allow(const std::vector<float>& possible) {
    const size_t first = expected.size() - possible.size();
    for (size_t i = 0; i < possible.size(); ++i)
      bound[first + i] = std::fmax(bound[first + i], std::abs(static_cast<double>(possible[i]) -
                                                              static_cast<double>(expected[first + i])));
  }
  Difference difference() const { return compare(actual, expected, bound); }
};

}  // namespace fulgurite::audit
