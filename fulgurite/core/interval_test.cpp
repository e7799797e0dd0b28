#include "fulgurite/core/interval.h"

#include <gtest/gtest.h>

#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

TEST(interval, sums_and_products_hold_those_of_what_lies_inside) {
  Random random(1);
  const auto inside = [&](Interval a) { return random.uniform(a.low, a.high); };
  for (int i = 0; i < 20000; ++i) {
    const Interval a = Interval::around(random.normal(), random.uniform());
    const Interval b = Interval::around(random.normal(), random.uniform());
    const double x = inside(a), y = inside(b);
    EXPECT_TRUE((a + b).holds(x + y));
    EXPECT_TRUE((a * b).holds(x * y));
    EXPECT_TRUE((a * -2.0).holds(-2.0 * x));
    EXPECT_LE(std::abs(x), a.magnitude());
  }
}

TEST(interval, products_end_where_the_signs_put_them) {
  const auto ends = [](Interval a) { return std::pair(a.low, a.high); };
  EXPECT_EQ(ends(Interval{-1, 2} * Interval{-3, 5}), std::pair(-6.0, 10.0));
  EXPECT_EQ(ends(Interval{-2, -1} * Interval{-4, -3}), std::pair(3.0, 8.0));
  EXPECT_EQ(ends(Interval{1, 2} * Interval{-4, 3}), std::pair(-8.0, 6.0));
  EXPECT_EQ(ends(widened({1, 2}, 0.5)), std::pair(0.5, 2.5));
  EXPECT_FALSE((Interval{1, 2}).holds(2.001));
}

TEST(interval, a_rounded_interval_holds_what_rounds_from_inside) {
  Random random(2);
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    for (int i = 0; i < 20000; ++i) {
      const Interval a = Interval::around(random.normal(), 1e-3 * random.uniform());
      EXPECT_TRUE(rounded(dtype, a).holds(round_once(dtype, random.uniform(a.low, a.high))));
    }
  }
  // A tie that the ends lie on either side of opens to both neighbours.
  const Interval tie = rounded(DType::kBF16, Interval::around(1.0 + 0x1p-8, 1e-9));
  EXPECT_EQ(tie.low, 1.0);
  EXPECT_EQ(tie.high, 1.0 + 0x1p-7);
}

}  // namespace
}  // namespace fulgurite
