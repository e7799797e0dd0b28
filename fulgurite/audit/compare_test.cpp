#include "fulgurite/audit/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace fulgurite::audit {
namespace {

const float kNaN = std::numeric_limits<float>::quiet_NaN();
const float kInfinity = std::numeric_limits<float>::infinity();

Difference of(std::vector<float> actual, std::vector<float> expected, double bound) {
  return compare(actual, expected, std::vector<double>(actual.size(), bound));
}

TEST(compare, equal_values_are_within_a_bound_of_zero) {
  EXPECT_TRUE(of({1.0f, -0.0f, kNaN, -kInfinity}, {1.0f, 0.0f, kNaN, -kInfinity}, 0.0).within());
}

TEST(compare, a_difference_beyond_its_bound_is_rejected_and_placed) {
  const Difference d = of({1.0f, 2.5f, 3.0f}, {1.0f, 2.0f, 3.0f}, 0.25);
  EXPECT_EQ(d.beyond, 1);
  EXPECT_EQ(d.worst, 1);
  EXPECT_DOUBLE_EQ(d.worst_share, 2.0);
  EXPECT_DOUBLE_EQ(d.sign_bias, 1.0);
}

TEST(compare, a_negative_difference_beyond_its_bound_is_rejected) {
  EXPECT_EQ(of({1.0f}, {2.0f}, 0.5).beyond, 1);
}

TEST(compare, a_NaN_on_one_side_is_rejected_under_any_bound) {
  EXPECT_EQ(of({kNaN}, {1.0f}, 1e30).beyond, 1);
  EXPECT_EQ(of({1.0f}, {kNaN}, 1e30).beyond, 1);
}

TEST(compare, infinities_must_agree_in_sign) {
  EXPECT_EQ(of({kInfinity}, {-kInfinity}, 1e30).beyond, 1);
  EXPECT_EQ(of({kInfinity}, {3e38f}, 1e39).beyond, 1);
}

TEST(compare, a_NaN_bound_accepts_nothing) { EXPECT_EQ(of({1.0f}, {1.0f}, std::nan("")).beyond, 1); }

TEST(compare, looseness_is_the_median_bound_to_the_median_magnitude) {
  const auto looseness = [](std::vector<float> expected, std::vector<double> bound) {
    return compare(expected, expected, bound).looseness;
  };
  EXPECT_EQ(looseness({-4.0f, 1.0f, 100.0f, kNaN}, {8.0, 2.0, 0.5, 0.0}), 0.5);
  EXPECT_EQ(looseness({0.0f, 2.0f}, {0.0, 0.0}), 0.0);
  EXPECT_EQ(looseness({0.0f}, {1.0}), kInfinity);
  EXPECT_EQ(looseness({}, {}), 0.0);
}

TEST(compare, one_wrong_element_among_many_is_found) {
  std::vector<float> expected(100000, 1.0f);
  std::vector<float> actual = expected;
  actual[77777] = 1.001f;
  const Difference d = compare(actual, expected, std::vector<double>(expected.size(), 1e-4));
  EXPECT_EQ(d.beyond, 1);
  EXPECT_EQ(d.worst, 77777);
}

}  // namespace
}  // namespace fulgurite::audit
