// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/index_select/index_select.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "fulgurite/ops/index_select/index_select_cases.h"
#include "test/op_test.h"

namespace fulgurite::index_select {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const Implementation* const kBoth[] = {&kReference, &kCpu};

struct Inputs {
  Buffer<3> q;
  Buffer<2> weights;
  Buffer<3> key_cache;
  std::vector<TokenPlace> places;
};

// The first token sees everything, the second one key, the others what chance gives.
std::vector<TokenPlace> make_places(Random& random, const Case& shape) {
  std::vector<TokenPlace> places;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const int64_t position = t == 0 ? shape.context - 1 : t == 1 ? 0 : random.below(shape.context);
    places.push_back({static_cast<int32_t>(t % shape.sequences), static_cast<int32_t>(position)});
  }
  return places;
}

Inputs make_inputs(uint64_t seed, const Case& shape, Values values) {
  Random random(seed);
  return {
      inputs::make(random, values, shape.tokens, shape.heads, shape.head_dim),
      inputs::make(random, values == Values::kConstant ? values : Values::kNormal, shape.tokens, shape.heads),
      inputs::make(random, values, shape.sequences, shape.context, shape.head_dim),
      make_places(random, shape)};
}

// Small whole numbers: every sum is exact, whatever its order, and many scores are equal.
Inputs make_whole_numbers(uint64_t seed, const Case& shape) {
  Inputs in = make_inputs(seed, shape, Values::kNormal);
  for (std::vector<float>* const elements : {&in.q.elements, &in.weights.elements, &in.key_cache.elements})
    for (float& x : *elements) x = std::round(x);
  return in;
}

Problem problem_of(const Case& shape, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.heads, shape.head_dim, shape.topk, shape.sequences, shape.context};
}

struct Result {
  std::vector<int32_t> selected;  // [tokens, topk]
  std::vector<float> scores;      // [tokens, context]
};

enum class Scores { kAsked, kNotAsked };

Result result(const Implementation& implementation, const Problem& problem, const Inputs& in, int threads = 1,
              Scores scores = Scores::kAsked) {
  const auto tokens = static_cast<int64_t>(in.places.size());
  Result out{std::vector<int32_t>(static_cast<size_t>(tokens * problem.topk), -7),
             std::vector<float>(static_cast<size_t>(tokens * problem.context), 7.0f)};
  Args args{in.q.view,
            in.weights.view,
            in.key_cache.view,
            {in.places.data(), {tokens}},
            {out.selected.data(), {tokens, problem.topk}},
            {}};
  if (scores == Scores::kAsked) args.scores = {out.scores.data(), {tokens, problem.context}};
  test::run(implementation, problem, args, threads);
  return out;
}

// The definition of the choice once more, by comparisons instead of keys.
std::vector<int32_t> sorted_choice(const Problem& problem, const Inputs& in,
                                   const std::vector<float>& scores) {
  std::vector<int32_t> selected;
  for (size_t t = 0; t < in.places.size(); ++t) {
    const float* const row = scores.data() + t * static_cast<size_t>(problem.context);
    std::vector<int32_t> order(static_cast<size_t>(in.places[t].position) + 1);
    std::iota(order.begin(), order.end(), 0);
    if (problem.setting.numerics.ties == Ties::kHigher) std::reverse(order.begin(), order.end());
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return row[a] > row[b] || (std::isnan(row[b]) && !std::isnan(row[a]));
    });
    order.resize(std::min(order.size(), static_cast<size_t>(problem.topk)));
    std::sort(order.begin(), order.end());
    order.resize(static_cast<size_t>(problem.topk), -1);
    selected.insert(selected.end(), order.begin(), order.end());
  }
  return selected;
}

// (head_dim / 16 + 8 + 2 heads) * 2^-24 * sum |w| sum |q||k|, and the smallest denormal for each product.
std::vector<double> score_bound(const Problem& problem, const Inputs& in) {
  const double roundings =
      static_cast<double>(problem.head_dim) / 16 + 8 + 2.0 * static_cast<double>(problem.heads);
  std::vector<double> bounds;
  for (int64_t t = 0; t < static_cast<int64_t>(in.places.size()); ++t) {
    const View<const float, 2> keys = in.key_cache.view[in.places[static_cast<size_t>(t)].sequence];
    for (int64_t s = 0; s < problem.context; ++s) {
      double magnitude = 0.0, tiny = 0.0;
      for (int64_t h = 0; h < problem.heads; ++h) {
        double sum = 0.0;
        for (int64_t d = 0; d < problem.head_dim; ++d)
          sum += std::abs(static_cast<double>(in.q.view(t, h, d)) * static_cast<double>(keys(s, d)));
        magnitude += std::abs(in.weights.view(t, h)) * sum;
        tiny += 1.0 + std::abs(in.weights.view(t, h)) * static_cast<double>(problem.head_dim);
      }
      bounds.push_back(roundings * 0x1p-24 * magnitude + tiny * 0x1p-149);
    }
  }
  return bounds;
}

void expect_agreement(const Case& shape, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, seed 1", shape.what, inputs::name(values)));
  const Problem problem = problem_of(shape);
  const Inputs in = make_inputs(1, shape, values);
  const Result expected = result(kReference, problem, in);
  const Result actual = result(kCpu, problem, in);
  EXPECT_TRUE(test::agrees(actual.scores, expected.scores, score_bound(problem, in)));
  EXPECT_EQ(expected.selected, sorted_choice(problem, in, expected.scores));
  EXPECT_EQ(actual.selected, sorted_choice(problem, in, actual.scores));
}

TEST(index_select, scores_agree_and_the_choice_is_exact_beyond_topk) {
  for (const Case& shape : kLongCases)
    for (const Values values : inputs::kAllValues) expect_agreement(shape, values);
}

TEST(index_select, scores_agree_and_the_choice_is_exact_up_to_topk) {
  for (const Case& shape : kShortCases)
    for (const Values values : inputs::kAllValues) expect_agreement(shape, values);
}

TEST(index_select, scores_agree_and_the_choice_is_exact_at_real_sizes) {
  for (const Case& shape : kRealCases) expect_agreement(shape, Values::kNormal);
}

TEST(index_select, chooses_as_the_reference_where_sums_are_exact) {
  for (const Case& shape : kLongCases) {
    for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
      SCOPED_TRACE(fmt::format("{}, ties {}, seed 2", shape.what, value_name(ties)));
      Problem problem = problem_of(shape);
      problem.setting.numerics.ties = ties;
      const Inputs in = make_whole_numbers(2, shape);
      EXPECT_EQ(result(kCpu, problem, in, 2).selected, result(kReference, problem, in).selected);
    }
  }
}

TEST(index_select, the_reference_is_the_weighted_sum_of_rectified_products) {
  const Case shape{"", 1, 2, 2, 1, 1, 2};
  Inputs in = make_inputs(3, shape, Values::kNormal);
  in.q.elements = {1.0f, 2.0f, -3.0f, 1.0f};
  in.weights.elements = {0.5f, -2.0f};
  in.key_cache.elements = {4.0f, 1.0f, -1.0f, 2.0f};
  in.q.view.data = in.q.elements.data();
  in.weights.view.data = in.weights.elements.data();
  in.key_cache.view.data = in.key_cache.elements.data();
  const Result out = result(kReference, problem_of(shape), in);
  EXPECT_EQ(out.scores, (std::vector<float>{0.5f * 6, 0.5f * 3 - 2 * 5}));
  EXPECT_EQ(out.selected, (std::vector<int32_t>{0}));
}

// Inputs of one token whose scores are `scores`: one head reads the positive ones, one the negative.
Inputs with_scores(const std::vector<float>& scores) {
  Inputs in;
  const auto context = static_cast<int64_t>(scores.size());
  in.q.elements = {1.0f, -1.0f};
  in.weights.elements = {1.0f, -1.0f};
  in.key_cache.elements = scores;
  in.q.view = {in.q.elements.data(), {1, 2, 1}};
  in.weights.view = {in.weights.elements.data(), {1, 2}};
  in.key_cache.view = {in.key_cache.elements.data(), {1, context, 1}};
  in.places = {{0, static_cast<int32_t>(context - 1)}};
  return in;
}

struct Distribution {
  const char* what;
  float (*score)(int64_t s);
};

constexpr Distribution kDistributions[] = {
    {"rising", [](int64_t s) { return static_cast<float>(s) - 200.0f; }},
    {"falling", [](int64_t s) { return 200.0f - static_cast<float>(s); }},
    {"all equal", [](int64_t) { return 1.25f; }},
    {"zeros of both signs", [](int64_t s) { return s % 3 == 0 ? -0.0f : 0.0f; }},
    {"two values", [](int64_t s) { return s % 2 == 0 ? 1.0f : 2.0f; }},
    {"neighbours", [](int64_t s) { return std::nextafter(1.0f, s % 5 == 0 ? 2.0f : 0.0f); }},
    {"denormals of both signs", [](int64_t s) { return static_cast<float>(s * 37 % 101 - 50) * 0x1p-149f; }},
    {"infinities", [](int64_t s) { return s % 7 == 0   ? kInfinity
                                          : s % 2 == 0 ? -kInfinity
                                                       : 1.0f; }},
    {"all NaN", [](int64_t) { return kNaN; }},
    {"NaN and -infinity", [](int64_t s) { return s % 2 == 0 ? kNaN : -kInfinity; }},
    {"NaN of both signs first", [](int64_t s) { return s < 300 ? (s % 2 == 0 ? kNaN : -kNaN) : -1.0f; }},
    {"largest last", [](int64_t s) { return s == 510 ? 3e38f : -3e38f; }},
};

TEST(index_select, the_choice_is_exact_for_any_scores_threads_and_ties) {
  for (const Distribution& distribution : kDistributions) {
    std::vector<float> scores;
    for (int64_t s = 0; s < 511; ++s) scores.push_back(distribution.score(s));
    const Inputs in = with_scores(scores);
    for (const int64_t topk : {1, 63, 64, 200, 510}) {
      for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
        SCOPED_TRACE(fmt::format("{}, topk {}, ties {}", distribution.what, topk, value_name(ties)));
        Problem problem = problem_of({"", 1, 2, 1, topk, 1, 511});
        problem.setting.numerics.ties = ties;
        const std::vector<int32_t> expected = sorted_choice(problem, in, scores);
        EXPECT_EQ(result(kReference, problem, in).selected, expected);
        for (const int threads : {1, 2, 3}) {
          EXPECT_EQ(result(kCpu, problem, in, threads).selected, expected);
          EXPECT_EQ(result(kCpu, problem, in, threads, Scores::kNotAsked).selected, expected);
        }
      }
    }
  }
}

TEST(index_select, more_threads_than_keys_choose_the_same) {
  const Inputs in = with_scores({3, 1, 2, 5, 4});
  const Problem problem = problem_of({"", 1, 2, 1, 3, 1, 5});
  EXPECT_EQ(result(kCpu, problem, in, 9).selected, (std::vector<int32_t>{0, 3, 4}));
}

TEST(index_select, ties_choose_the_lower_or_the_higher_position) {
  const Inputs in = with_scores({1, 1, 2, 1, 1});
  Problem problem = problem_of({"", 1, 2, 1, 3, 1, 5});
  for (const Implementation* const row : kBoth) {
    problem.setting.numerics.ties = Ties::kLower;
    EXPECT_EQ(result(*row, problem, in).selected, (std::vector<int32_t>{0, 1, 2}));
    problem.setting.numerics.ties = Ties::kHigher;
    EXPECT_EQ(result(*row, problem, in).selected, (std::vector<int32_t>{2, 3, 4}));
  }
}

TEST(index_select, a_rank_key_orders_as_the_contract_and_keeps_the_position) {
  const float falling[] = {kInfinity, 3e38f, 1.0f, 1e-45f, 0.0f, -1e-45f, -1.0f, -kInfinity, kNaN};
  for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
    for (size_t i = 0; i + 1 < std::size(falling); ++i)
      EXPECT_GT(rank_key(falling[i], 9, ties), rank_key(falling[i + 1], 5, ties));
    EXPECT_EQ(rank_key(-0.0f, 3, ties), rank_key(0.0f, 3, ties));
    EXPECT_EQ(rank_key(-kNaN, 3, ties), rank_key(kNaN, 3, ties));
    EXPECT_EQ(rank_key(1.0f, 3, ties) > rank_key(1.0f, 4, ties), ties == Ties::kLower);
    for (const int32_t position : {0, 1, std::numeric_limits<int32_t>::max()})
      EXPECT_EQ(position_of(rank_key(-2.0f, position, ties), ties), position);
  }
}

TEST(index_select, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 7, 5, 77, 50, 2, 333};
  const Inputs in = make_inputs(4, shape, Values::kNormal);
  const Result whole = result(kCpu, problem_of(shape), in);
  for (const Isa isa : test::machine_isas()) {
    for (const int threads : {1, 2, 3, 20}) {
      SCOPED_TRACE(fmt::format("{}, {} threads", name(isa), threads));
      const Result same = result(kCpu, problem_of(shape, isa), in, threads);
      EXPECT_TRUE(test::identical(same.scores, whole.scores));
      EXPECT_EQ(same.selected, whole.selected);
      for (int64_t t = 0; t < shape.tokens; ++t) {
        Inputs one = in;
        one.q.view = in.q.view.slice(0, t, 1);
        one.weights.view = in.weights.view.slice(0, t, 1);
        one.places = {in.places[static_cast<size_t>(t)]};
        const Result alone = result(kCpu, problem_of(shape, isa), one, threads);
        EXPECT_TRUE(test::identical(alone.scores, {&whole.scores[static_cast<size_t>(t * shape.context)],
                                                   static_cast<size_t>(shape.context)}));
        EXPECT_TRUE(std::equal(alone.selected.begin(), alone.selected.end(),
                               whole.selected.begin() + t * shape.topk));
      }
    }
  }
}

TEST(index_select, a_NaN_stays_in_its_token_and_its_key) {
  const Case shape{"", 4, 3, 33, 20, 1, 150};
  Inputs in = make_inputs(5, shape, Values::kNormal);
  for (TokenPlace& place : in.places) place.position = 149;
  in.q.view(1, 2, 32) = kNaN;
  in.weights.view(2, 0) = kNaN;
  in.key_cache.view(0, 70, 0) = kNaN;
  for (const Implementation* const row : kBoth) {
    const Result out = result(*row, problem_of(shape), in);
    for (int64_t t = 0; t < 4; ++t)
      for (int64_t s = 0; s < 150; ++s)
        EXPECT_EQ(std::isnan(out.scores[static_cast<size_t>(t * 150 + s)]), t == 1 || t == 2 || s == 70);
    EXPECT_EQ(out.selected, sorted_choice(problem_of(shape), in, out.scores));
  }
}

TEST(index_select, reads_neither_unseen_keys_nor_other_sequences) {
  const Case shape{"", 3, 2, 16, 10, 3, 200};
  Inputs in = make_inputs(6, shape, Values::kNormal);
  in.places = {{1, 99}, {1, 30}, {1, 70}};
  const Result clean = result(kReference, problem_of(shape), in);
  for (int64_t s = 0; s < 200; ++s)
    for (int64_t sequence = 0; sequence < 3; ++sequence)
      if (sequence != 1 || s > 99) in.key_cache.view(sequence, s, 3) = kInfinity;
  for (const Implementation* const row : kBoth) {
    const Result out = result(*row, problem_of(shape), in);
    EXPECT_EQ(out.selected, sorted_choice(problem_of(shape), in, clean.scores));
    for (int64_t s = 100; s < 200; ++s) EXPECT_EQ(out.scores[static_cast<size_t>(s)], -kInfinity);
  }
}

TEST(index_select, reads_heads_and_keys_of_any_stride) {
  const Case wide{"", 3, 6, 40, 12, 2, 150};
  Inputs in = make_whole_numbers(7, wide);
  in.q.view = in.q.view.slice(1, 1, 4).slice(2, 5, 20);
  in.weights.view = in.weights.view.slice(1, 2, 4);
  in.key_cache.view = in.key_cache.view.slice(2, 11, 20);
  const Problem problem = problem_of({"", 3, 4, 20, 12, 2, 150});
  EXPECT_EQ(result(kCpu, problem, in).selected, result(kReference, problem, in).selected);
}

TEST(index_select, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 3, 4, 5, 2, 9};
  const Problem problem = problem_of(shape);
  const Inputs in = make_inputs(8, shape, Values::kNormal);
  std::vector<TokenPlace> places{{0, 8}, {1, 0}};
  std::vector<int32_t> selected(10);
  std::vector<float> scores(18);
  const auto message = [&](auto change) {
    Args args{in.q.view,
              in.weights.view,
              in.key_cache.view,
              {places.data(), {2}},
              {selected.data(), {2, 5}},
              {scores.data(), {2, 9}}};
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.q = in.q.view.slice(1, 0, 2); }),
            "index_select: q: expected shape [2, 3, 4], found [2, 2, 4]");
  EXPECT_EQ(message([](Args& args) { args.weights = args.weights.slice(0, 0, 1); }),
            "index_select: weights: expected shape [2, 3], found [1, 3]");
  EXPECT_EQ(message([&](Args& args) { args.key_cache = in.key_cache.view.slice(1, 0, 8); }),
            "index_select: key_cache: expected shape [2, 9, 4], found [2, 8, 4]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "index_select: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.selected = args.selected.slice(1, 0, 4); }),
            "index_select: selected: expected shape [2, 5], found [2, 4]");
  EXPECT_EQ(message([](Args& args) { args.scores = args.scores.slice(1, 0, 4); }),
            "index_select: scores: expected shape [2, 9], found [2, 4]");
  places[1].position = 9;
  EXPECT_EQ(message([](Args&) {}), "index_select: places, a position: expected a value in [0, 8], found 9");
  places[1] = {2, 0};
  EXPECT_EQ(message([](Args&) {}), "index_select: places, a sequence: expected a value in [0, 1], found 2");
}

TEST(index_select, refuses_numerics_that_it_does_not_do) {
  for (const Implementation* const row : kBoth) {
    Problem problem = problem_of(kLongCases[0]);
    problem.setting.numerics.activation = Activation::kBf16;
    EXPECT_EQ(test::refusal(*row, problem), "activation = bf16, takes fp32");
    problem.setting.numerics = Numerics::fp32();
    problem.setting.numerics.index_quant = IndexQuant::kFp8;
    EXPECT_EQ(test::refusal(*row, problem), "index_quant = fp8, takes none");
    problem.setting.numerics = Numerics::fp32();
    problem.setting.numerics.mma = Mma::kHopper;
    EXPECT_EQ(test::refusal(*row, problem), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::index_select
