#include "fulgurite/cpu/softmax.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

namespace fulgurite::cpu {
namespace {

TEST(cpu_softmax, the_exponential_is_within_its_error_everywhere) {
  for (double at = 0.0; at < 120.0; at += 0.00037) {
    const auto x = static_cast<float>(-at);
    const double exact = std::exp(static_cast<double>(x));
    const double ulp = std::max(std::exp2(std::floor(std::log2(exact)) - 23.0), 0x1p-149);
    ASSERT_LE(std::abs(exp_not_positive(x) - exact), 1.5 * ulp) << x;
  }
  EXPECT_EQ(exp_not_positive(0.0f), 1.0f);
  EXPECT_EQ(exp_not_positive(-0.0f), 1.0f);
  EXPECT_EQ(exp_not_positive(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_TRUE(std::isnan(exp_not_positive(std::numeric_limits<float>::quiet_NaN())));
}

TEST(cpu_softmax, a_row_of_any_length_is_exponentials_and_their_sum) {
  for (int64_t count = 1; count < 70; ++count) {
    std::vector<float> row;
    for (int64_t j = 0; j < count; ++j) row.push_back(static_cast<float>((j * 7) % 23) * 0.25f);
    const float top = *std::max_element(row.begin(), row.end());
    const std::vector<float> scores = row;
    const float sum = softmax(row.data(), count);
    double exact = 0.0;
    for (int64_t j = 0; j < count; ++j) {
      const auto i = static_cast<size_t>(j);
      EXPECT_EQ(row[i], exp_not_positive(scores[i] - top));
      exact += row[i];
    }
    EXPECT_NEAR(sum, exact, exact * 1e-6);
  }
}

TEST(cpu_softmax, a_NaN_or_infinity_makes_the_sum_NaN_wherever_it_stands) {
  for (size_t at = 0; at < 35; ++at) {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
      std::vector<float> row(35, 1.0f);
      row[at] = bad;
      EXPECT_TRUE(std::isnan(softmax(row.data(), 35)));
    }
  }
}

}  // namespace
}  // namespace fulgurite::cpu
