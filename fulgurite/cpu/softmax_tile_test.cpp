// The kernels of an attention's softmax, in every build: the same bits as the scalar exponential and plain
// loops.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/softmax.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float weight(float score, float largest) {
  return score == -kInfinity ? 0.0f : exp_not_positive(score - largest);
}

TEST(softmax_tile, weighs_each_head_as_the_scalar_exponential_does) {
  Random random(1);
  for (const Isa isa : test::machine_isas()) {
    for (const int64_t keys : {1, 2, 7, 64}) {
      for (const bool rounded : {false, true}) {
        std::vector<float> scores(static_cast<size_t>(keys * 20));
        for (float& score : scores)
          score = random.below(9) == 0 ? -kInfinity : static_cast<float>(random.normal() * 40);
        std::vector<float> largest(16, -kInfinity), denominator(16, 3.0f), rescale(16, 9.0f);
        for (size_t l = 0; l < 16; l += 3) largest[l] = 10.0f;
        const std::vector<float> before = largest;
        std::vector<uint32_t> p(static_cast<size_t>((keys + 1) / 2 * 24), 0xDEADBEEF);
        kernels(isa).softmax_tile({scores.data(), 20, keys, 0.5f, rounded, p.data(), 24},
                                  {largest.data(), denominator.data(), rescale.data()});
        for (int64_t l = 0; l < 16; ++l) {
          const auto lane = static_cast<size_t>(l);
          const auto score = [&](int64_t j) { return scores[static_cast<size_t>(j * 20 + l)] * 0.5f; };
          float top = before[lane], sum = 0.0f;
          for (int64_t j = 0; j < keys; ++j) top = std::max(top, score(j));
          for (int64_t j = 0; j < (keys + 1) / 2 * 2; ++j) {
            const float e = j < keys ? weight(score(j), top) : 0.0f;
            const uint32_t pair = p[static_cast<size_t>(j / 2 * 24 + l)];
            EXPECT_EQ(j % 2 == 0 ? pair & 0xFFFFu : pair >> 16, to_bf16(e).bits) << name(isa);
            sum += rounded ? round_to_bf16(e) : e;
          }
          EXPECT_EQ(largest[lane], top);
          EXPECT_EQ(rescale[lane], weight(before[lane], top));
          EXPECT_EQ(denominator[lane], std::fma(3.0f, weight(before[lane], top), sum)) << name(isa);
        }
        EXPECT_EQ(p[16], 0xDEADBEEF);
      }
    }
  }
}

TEST(divide_to_bf16, is_one_quotient_rounded_and_multiply_one_product) {
  Random random(2);
  std::vector<float> values;
  for (int i = 0; i < 53; ++i) values.push_back(static_cast<float>(random.normal()));
  values[7] = std::nanf("");
  values[30] = kInfinity;
  for (const Isa isa : test::machine_isas()) {
    std::vector<uint16_t> quotients(54, 0xBEEF);
    kernels(isa).divide_to_bf16(values.data(), 0.7f, 53, quotients.data());
    EXPECT_EQ(quotients[53], 0xBEEF);
    std::vector<float> scaled = values;
    kernels(isa).multiply(scaled.data(), 0.7f, 52);
    for (size_t i = 0; i < 53; ++i) {
      if (i == 7) continue;
      EXPECT_EQ(quotients[i], to_bf16(values[i] / 0.7f).bits) << name(isa);
      EXPECT_EQ(scaled[i], i < 52 ? values[i] * 0.7f : values[i]);
    }
    EXPECT_TRUE(std::isnan(scaled[7]) && std::isnan(to_float(bf16{quotients[7]})));
  }
}

}  // namespace
}  // namespace fulgurite::cpu
