// The choice, given scores: exact for any distribution, and the same for any batch, threads and
// instruction set.

#include "fulgurite/ops/index_select/test_inputs.h"

namespace fulgurite::index_select {
namespace {

TEST(index_select, chooses_as_the_reference_where_sums_are_exact) {
  for (const Row& row : kRows) {
    for (const Case& shape : kLongCases) {
      for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
        SCOPED_TRACE(fmt::format("{}, {}, ties {}, seed 2", row.numerics, shape.what, value_name(ties)));
        Problem problem = problem_of(shape, row.numerics);
        problem.setting.numerics.ties = ties;
        const Inputs in = make_inputs(2, shape, Values::kNormal, row.numerics, true);
        EXPECT_EQ(result(*row.row, problem, in, 2).selected, result(kReference, problem, in).selected);
      }
    }
  }
}

// Inputs of one token whose scores are `scores`: a head of weight 1 reads them; one of -1 reads negative
// ones.
Inputs with_scores(const std::vector<float>& scores, const char* numerics) {
  const auto context = static_cast<int64_t>(scores.size());
  Inputs in = make_inputs(1, {"", 1, 2, 1, 1, 1, context}, Values::kConstant, numerics);
  in.weights.view(0, 1) = -1.0f;
  in.weights.view(0, 0) = 1.0f;
  const bool scaled = in.q.view.dtype == DType::kF8_E4M3;
  for (int64_t s = 0; s < context; ++s) {
    const float score = scores[static_cast<size_t>(s)];
    in.scales.view(0, s) = score;
    if (scaled)
      in.key_cache.view.as<e4m3>()(0, s, 0) = to_e4m3(1.0f);
    else
      store(in.key_cache.view, score, 0, s, 0);
  }
  for (int64_t h = 0; h < 2; ++h) {
    if (scaled)
      in.q.view.as<e4m3>()(0, h, 0) = to_e4m3(h == 0 ? 1.0f : -1.0f);
    else
      store(in.q.view, h == 0 ? 1.0f : -1.0f, 0, h, 0);
  }
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
    {"largest last", [](int64_t s) { return s % 511 == 510 ? 3e38f : -3e38f; }},
};

TEST(index_select, the_choice_is_exact_for_any_scores_threads_and_ties) {
  for (const Distribution& distribution : kDistributions) {
    std::vector<float> scores;
    for (int64_t s = 0; s < 511; ++s) scores.push_back(distribution.score(s));
    for (const Row& row : kExact) {
      const Inputs in = with_scores(scores, row.numerics);
      for (const int64_t topk : {1, 63, 64, 200, 510}) {
        for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
          SCOPED_TRACE(fmt::format("{}, {} {}, topk {}, ties {}", distribution.what, row.row->name,
                                   row.numerics, topk, value_name(ties)));
          Problem problem = problem_of({"", 1, 2, 1, topk, 1, 511}, row.numerics);
          problem.setting.numerics.ties = ties;
          const std::vector<int32_t> expected = sorted_choice(problem, in, scores);
          EXPECT_EQ(result(*row.row, problem, in).selected, expected);
          EXPECT_EQ(result(*row.row, problem, in, 1, Scores::kNotAsked).selected, expected);
        }
      }
    }
  }
}

// Heads enough that the work is dealt out.
TEST(index_select, a_million_keys_are_chosen_from_exactly_by_any_number_of_threads) {
  constexpr int64_t kContext = 1 << 20;
  for (const int which : {0, 2, 4}) {
    std::vector<float> scores;
    for (int64_t s = 0; s < kContext; ++s) scores.push_back(kDistributions[which].score(s));
    const Inputs in = with_scores(scores, "serving");
    for (const int64_t topk : {int64_t{2048}, kContext - 1}) {
      for (const Ties ties : {Ties::kLower, Ties::kHigher}) {
        SCOPED_TRACE(fmt::format("{}, topk {}, ties {}", kDistributions[which].what, topk, value_name(ties)));
        Problem problem = problem_of({"", 1, 2, 1, topk, 1, kContext}, "serving");
        problem.setting.numerics.ties = ties;
        const std::vector<int32_t> expected = sorted_choice(problem, in, scores);
        for (const int threads : {1, 3})
          EXPECT_EQ(result(kCpuPairs, problem, in, threads, Scores::kNotAsked).selected, expected);
      }
    }
  }
}

TEST(index_select, ties_choose_the_lower_or_the_higher_position) {
  for (const Row& row : kExact) {
    const Inputs in = with_scores({1, 1, 2, 1, 1}, row.numerics);
    Problem problem = problem_of({"", 1, 2, 1, 3, 1, 5}, row.numerics);
    EXPECT_EQ(result(*row.row, problem, in).selected, (std::vector<int32_t>{0, 1, 2}));
    problem.setting.numerics.ties = Ties::kHigher;
    EXPECT_EQ(result(*row.row, problem, in).selected, (std::vector<int32_t>{2, 3, 4}));
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

// Work for several threads, more tokens than a block and a pass hold, sequences and positions in no order.
TEST(index_select, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  for (const Case& shape : {Case{"", 21, 5, 77, 50, 2, 3000}, Case{"", 530, 2, 3, 4, 2, 70}}) {
    for (const Row& row : kRows) {
      const Inputs in = make_inputs(4, shape, Values::kNormal, row.numerics);
      const Result whole = result(*row.row, problem_of(shape, row.numerics), in);
      EXPECT_EQ(whole.selected, sorted_choice(problem_of(shape, row.numerics), in, whole.scores));
      for (const Isa isa : test::machine_isas()) {
        for (const int threads : {1, 2, 9}) {
          SCOPED_TRACE(fmt::format("{}, {}, {} threads", row.numerics, name(isa), threads));
          const Result same = result(*row.row, problem_of(shape, row.numerics, isa), in, threads);
          EXPECT_TRUE(test::identical(same.scores, whole.scores));
          EXPECT_EQ(same.selected, whole.selected);
        }
      }
      for (int64_t t = 0; t < shape.tokens; t += 1 + t / 8) {
        Inputs one = in;
        one.q.view = in.q.view.slice(0, t, 1);
        one.weights.view = in.weights.view.slice(0, t, 1);
        one.places = {in.places[static_cast<size_t>(t)]};
        const Result alone = result(*row.row, problem_of(shape, row.numerics), one, 2);
        EXPECT_TRUE(test::identical(alone.scores, {&whole.scores[static_cast<size_t>(t * shape.context)],
                                                   static_cast<size_t>(shape.context)}));
        EXPECT_TRUE(std::equal(alone.selected.begin(), alone.selected.end(),
                               whole.selected.begin() + t * shape.topk));
      }
    }
  }
}

TEST(index_select, memory_knows_neither_the_context_nor_the_batch) {
  for (const Row& row : kRows) {
    const auto bytes = [&](int64_t context, int64_t tokens) {
      return row.row->workspace_bytes(problem_of({"", tokens, 64, 128, 2048, 1, context}, row.numerics), 2);
    };
    EXPECT_EQ(bytes(1 << 20, 8), bytes(1 << 14, 4096));
    EXPECT_LT(bytes(1 << 20, 1), 1 << 19);
  }
}

}  // namespace
}  // namespace fulgurite::index_select
