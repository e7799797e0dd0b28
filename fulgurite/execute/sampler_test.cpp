#include "fulgurite/execute/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "fulgurite/ops/largest_logits/largest_logits.h"
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

// --- the largest of many ---

constexpr int64_t kVocabulary = 3000, kLargest = 200;

// What a GPU gives of these logits; its total may be off by `off` of what it may.
struct Largest {
  Largest(const std::vector<float>& logits, double temperature, double off)
      : ids(static_cast<size_t>(kLargest)), values(static_cast<size_t>(kLargest)) {
    largest_logits::Problem problem;
    problem.vocabulary = std::ssize(logits);
    problem.most = kLargest;
    problem.largest_rows = 1;
    largest_logits::kReference.run(problem,
                                   {{logits.data(), {1, std::ssize(logits)}},
                                    {&temperature, {1}},
                                    {ids.data(), {1, kLargest}},
                                    {values.data(), {1, kLargest}},
                                    {&total, {1}},
                                    {&numbers, {1}}},
                                   {});
    total *= 1.0 + off * largest_logits::weight_slack(numbers);
  }
  LargestLogits view() const {
    const auto found = static_cast<size_t>(std::min<int64_t>(numbers, kLargest));
    return {std::span(ids).first(found), std::span(values).first(found), total, numbers};
  }
  std::vector<int32_t> ids;
  std::vector<float> values;
  double total = 0.0;
  int32_t numbers = 0;
};

std::vector<float> draw_logits(Random& random, double spread, int64_t count, bool coarse) {
  std::vector<float> logits;
  for (int64_t i = 0; i < count; ++i) {
    const double x = spread * random.normal();
    logits.push_back(random.below(50) == 0 ? std::nanf("") : static_cast<float>(coarse ? std::round(x) : x));
  }
  return logits;
}

// How many of the draws are settled; each is the one of all logits.
int64_t settled(const SamplerOptions& options, double spread, int64_t count, bool coarse, int steps = 40) {
  Random random(5);
  Sampler all(options, kVocabulary), some(options, kVocabulary);
  int64_t draws = 0;
  for (int step = 0; step < steps; ++step) {
    const std::vector<float> logits = draw_logits(random, spread, count, coarse);
    const Largest largest(logits, options.temperature, step % 3 - 1.0);
    std::optional<int32_t> id = some.next(largest.view());
    draws += id ? 1 : 0;
    if (!id) id = some.next(view(logits));
    EXPECT_EQ(*id, all.next(view(logits))) << "step " << step << ", spread " << spread;
  }
  return draws;
}

TEST(sampler, the_largest_logits_give_the_token_of_all) {
  for (const double temperature : {0.0, 0.3, 1.0, 100.0})
    for (const double top_p : {0.05, 0.9, 1.0 - 1e-12, 1.0})
      for (const int64_t top_k : {0, 1, 40, 201, 100000})
        for (const double spread : {0.0, 0.5, 4.0, 1e3, 1e-20})
          for (const bool coarse : {false, true})
            settled({temperature, top_p, top_k, 9}, spread, coarse ? kVocabulary : 500, coarse, 6);
}

TEST(sampler, the_largest_logits_settle_what_they_can) {
  EXPECT_EQ(settled({0.0, 1.0, 0, 1}, 0.1, kVocabulary, false), 40) << "greedy";
  EXPECT_EQ(settled({0.7, 0.95, 0, 1}, 4.0, kVocabulary, false), 40) << "a nucleus";
  EXPECT_EQ(settled({0.7, 1.0, 50, 1}, 1.0, kVocabulary, false), 40) << "top-k";
  EXPECT_GT(settled({0.7, 1.0, 0, 1}, 4.0, kVocabulary, false), 30) << "all: draws among the largest";
  EXPECT_LT(settled({1.0, 1.0, 0, 1}, 0.1, kVocabulary, false), 20)
      << "nearly flat: most draws lie beyond them";
  EXPECT_EQ(settled({1.0, 1.0, 0, 1}, 0.1, kLargest, false), 40) << "no more than they are";
}

TEST(sampler, the_largest_logits_of_NaN_alone_are_refused) {
  const std::vector<float> logits(300, std::nanf(""));
  for (const double temperature : {0.0, 1.0})
    EXPECT_EQ(test::message_of([&] {
                Sampler({temperature, 1.0, 0, 1}, 300).next(Largest(logits, temperature, 0.0).view());
              }),
              "logits: expected numbers, found only NaN");
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
