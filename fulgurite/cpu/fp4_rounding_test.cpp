#include "fulgurite/cpu/fp4_rounding.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"

namespace fulgurite::cpu {
namespace {

void expect_the_same(const std::vector<float>& x) {
  std::vector<float> expected = x, actual = x;
  fulgurite::round_to_fp4(expected);
  round_to_fp4(actual.data(), static_cast<int64_t>(actual.size()));
  ASSERT_EQ(std::memcmp(actual.data(), expected.data(), x.size() * sizeof(float)), 0)
      << "a group that begins with " << x.front() << ", " << x.back();
}

// Each bf16 value beside each of several largest ones: those that set a scale apart, and the ends of fp32.
TEST(fp4_rounding, is_the_quantizers_for_every_bf16_value) {
  for (const float largest :
       {0.0f, 1e-45f, 0x1.8p-124f, 6.0f, 6.0000005f, 5.9999995f, 3.0f, 4.1f, 448.0f, 3e38f})
    for (uint32_t first = 0; first < 0x10000; first += 31) {
      std::vector<float> x{largest};
      for (uint32_t i = first; i < std::min<uint32_t>(first + 31, 0x10000); ++i) {
        const float value = to_float(bf16{static_cast<uint16_t>(i)});
        if (std::fabs(value) <= largest) x.push_back(value);
      }
      expect_the_same(x);
    }
}

// Around each tie between two codes, at every scale.
TEST(fp4_rounding, is_the_quantizers_around_ties_at_every_scale) {
  for (int exponent = -149; exponent <= 125; ++exponent) {
    std::vector<float> x{std::ldexp(6.0f, exponent)};
    for (const float tie : {0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f}) {
      const float at = std::ldexp(tie, exponent);
      x.insert(x.end(), {at, -at, std::nextafter(at, 0.0f), std::nextafter(-at, -INFINITY)});
    }
    expect_the_same(x);
  }
}

TEST(fp4_rounding, is_the_quantizers_for_any_length_and_for_what_is_not_finite) {
  Random random(1);
  for (int64_t count = 1; count <= 100; ++count) {
    std::vector<float> x;
    for (int64_t i = 0; i < count; ++i)
      x.push_back(static_cast<float>(std::ldexp(random.normal(), static_cast<int>(random.below(40)) - 20)));
    expect_the_same(x);
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), INFINITY, -INFINITY}) {
      x[static_cast<size_t>(random.below(count))] = bad;
      expect_the_same(x);
    }
  }
}

}  // namespace
}  // namespace fulgurite::cpu
