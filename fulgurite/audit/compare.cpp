#include "fulgurite/audit/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/assert.h"

namespace fulgurite::audit {
namespace {

void note_worst(Difference& d, int64_t index, double share, float actual, float expected) {
  if (d.worst >= 0 && !(share > d.worst_share)) return;
  d.worst = index;
  d.worst_share = share;
  d.worst_actual = actual;
  d.worst_expected = expected;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double looseness(std::span<const float> expected, std::span<const double> bound) {
  std::vector<double> magnitudes, bounds;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(expected[i]) || std::isnan(bound[i])) continue;
    magnitudes.push_back(std::abs(expected[i]));
    bounds.push_back(bound[i]);
  }
  const double typical = median(bounds);
  return typical == 0.0 ? 0.0 : typical / median(magnitudes);
}

}  // namespace

bool same_mask(double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b || (std::isfinite(a) && std::isfinite(b));
}

Difference compare(std::span<const float> actual, std::span<const float> expected,
                   std::span<const double> bound) {
  FULGURITE_ASSERT(actual.size() == expected.size() && bound.size() == expected.size(), "sizes {}, {}, {}",
                   actual.size(), expected.size(), bound.size());
  Difference d;
  d.elements = static_cast<int64_t>(actual.size());
  double squared_difference = 0.0, squared_expected = 0.0;
  d.looseness = looseness(expected, bound);
  int64_t higher = 0, lower = 0;
  for (int64_t i = 0; i < d.elements; ++i) {
    if (!same_mask(actual[i], expected[i])) {
      d.mask_mismatches += 1;
      d.beyond += 1;
      note_worst(d, i, std::numeric_limits<double>::infinity(), actual[i], expected[i]);
      continue;
    }
    if (!std::isfinite(expected[i])) continue;
    const double difference = static_cast<double>(actual[i]) - static_cast<double>(expected[i]);
    squared_difference += difference * difference;
    squared_expected += static_cast<double>(expected[i]) * static_cast<double>(expected[i]);
    higher += difference > 0.0;
    lower += difference < 0.0;
    if (!(std::abs(difference) <= bound[i])) d.beyond += 1;
    const double share = difference == 0.0 ? 0.0 : std::abs(difference) / bound[i];
    note_worst(d, i, std::isnan(share) ? std::numeric_limits<double>::infinity() : share, actual[i],
               expected[i]);
  }
  if (squared_difference > 0.0) d.relative_l2 = std::sqrt(squared_difference / squared_expected);
  if (higher + lower > 0)
    d.sign_bias = static_cast<double>(higher - lower) / static_cast<double>(higher + lower);
  return d;
}

std::string describe(const Difference& d) {
  if (d.elements == 0) return "nothing to compare";
  return fmt::format(
      "{} of {} beyond their bound ({} in NaN or infinity); worst at {}: {} against {} ({:.3g} x its bound); "
      "relative L2 {:.2e}; bias {:+.2f}",
      d.beyond, d.elements, d.mask_mismatches, d.worst, d.worst_actual, d.worst_expected, d.worst_share,
      d.relative_l2, d.sign_bias);
}

}  // namespace fulgurite::audit
