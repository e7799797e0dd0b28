#pragma once
// Is a result right? NaN and infinity are compared as masks first; every other element against its own bound,
// derived from the arithmetic by the caller. An element that is NaN on one side only is beyond any bound.

#include <cstdint>
#include <span>
#include <string>

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

}  // namespace fulgurite::audit
