#include "fulgurite/execute/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "test/op_test.h"

namespace fulgurite::execute {
namespace {

View<const float, 1> view(const std::vector<float>& logits) {
  return {logits.data(), {static_cast<int64_t>(logits.size())}};
}

// How often each id comes in `draws` draws.
std::map<int32_t, int> histogram(const SamplerOptions& options, const std::vector<float>& logits, int draws) {
  Sampler sampler(options, static_cast<int64_t>(logits.size()));
  std::map<int32_t, int> counts;
  for (int i = 0; i < draws; ++i) counts[sampler.next(view(logits))] += 1;
  return counts;
}

TEST(sampler, greedy_takes_the_largest_and_the_lower_of_equals) {
  EXPECT_EQ(greedy(view({1.0f, 3.0f, 3.0f, 2.0f})), 1);
  EXPECT_EQ(greedy(view({std::nanf(""), -1.0f})), 1);
  EXPECT_NE(test::message_of([] { greedy(view({std::nanf("")})); }), "");
}

TEST(sampler, temperature_zero_is_greedy) {
  EXPECT_EQ(histogram({0.0, 1.0, 0, 7}, {0.0f, 1.0f, 0.5f}, 100), (std::map<int32_t, int>{{1, 100}}));
}

TEST(sampler, frequencies_are_the_softmax) {
  const std::vector<float> logits{std::log(1.0f), std::log(2.0f), std::log(5.0f)};
  const auto counts = histogram({1.0, 1.0, 0, 3}, logits, 80000);
  EXPECT_NEAR(counts.at(0), 10000, 500);
  EXPECT_NEAR(counts.at(1), 20000, 700);
  EXPECT_NEAR(counts.at(2), 50000, 800);
}

TEST(sampler, a_lower_temperature_sharpens) {
  const auto counts = histogram({0.5, 1.0, 0, 3}, {std::log(1.0f), std::log(3.0f)}, 50000);
  EXPECT_NEAR(counts.at(1), 45000, 700);  // 9 : 1
}

TEST(sampler, top_k_and_top_p_keep_the_most_probable) {
  const std::vector<float> logits{std::log(0.1f), std::log(0.5f), std::log(0.3f), std::log(0.1f)};
  EXPECT_EQ(histogram({1.0, 1.0, 2, 1}, logits, 1000).size(), 2u);
  EXPECT_EQ(histogram({1.0, 0.45, 0, 1}, logits, 1000), (std::map<int32_t, int>{{1, 1000}}));
  const auto kept = histogram({1.0, 0.75, 0, 1}, logits, 1000);
  EXPECT_EQ(kept.size(), 2u);
  EXPECT_TRUE(kept.contains(1) && kept.contains(2));
}

TEST(sampler, top_p_is_of_what_top_k_keeps) {
  // Of 5 : 3 : 1 : 1 the first two are kept; 0.6 of their eight parts is within the first.
  const std::vector<float> logits{std::log(1.0f), std::log(5.0f), std::log(3.0f), std::log(1.0f)};
  EXPECT_EQ(histogram({1.0, 0.6, 2, 1}, logits, 1000), (std::map<int32_t, int>{{1, 1000}}));
  EXPECT_EQ(histogram({1.0, 0.6, 0, 1}, logits, 1000).size(), 2u);
}

TEST(sampler, the_same_seed_gives_the_same_tokens) {
  const std::vector<float> logits(50, 0.0f);
  Sampler a({1.0, 1.0, 0, 42}, 50), b({1.0, 1.0, 0, 42}, 50), c({1.0, 1.0, 0, 43}, 50);
  int different = 0;
  for (int i = 0; i < 200; ++i) {
    const int32_t id = a.next(view(logits));
    EXPECT_EQ(id, b.next(view(logits)));
    different += id != c.next(view(logits));
  }
  EXPECT_GT(different, 100);
}

TEST(sampler, an_infinite_logit_is_certain) {
  EXPECT_EQ(histogram({1.0, 1.0, 0, 1}, {0.0f, std::numeric_limits<float>::infinity(), 5.0f}, 100),
            (std::map<int32_t, int>{{1, 100}}));
}

TEST(sampler, options_outside_their_range_are_refused_by_name) {
  EXPECT_EQ(test::message_of([] {
              Sampler({-1.0, 1.0, 0, 1}, 2);
            }),
            "temperature: expected 0 to 100, found -1");
  EXPECT_EQ(test::message_of([] {
              Sampler({1.0, 0.0, 0, 1}, 2);
            }),
            "top-p: expected above 0 and at most 1, found 0");
  EXPECT_EQ(test::message_of([] {
              Sampler({1.0, 1.0, -3, 1}, 2);
            }),
            "top-k: expected 0 (all) or more, found -3");
  EXPECT_NE(test::message_of([] { Sampler({std::nan(""), 1.0, 0, 1}, 2); }), "");
}

}  // namespace
}  // namespace fulgurite::execute
