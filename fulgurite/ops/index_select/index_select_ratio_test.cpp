// Rows that stand for several tokens: what a token sees, and the choice among it.

#include "fulgurite/ops/index_select/test_inputs.h"

namespace fulgurite::index_select {
namespace {

constexpr int64_t kRatio = 4;

const Row kV4Rows[] = {{&kCpu, "fp32"},
                       {&kCpuPairs, "serving,index_quant=fp4"},
                       {&kCpuPairs, "serving"},
                       {&kCpuPairs, "fp32,index_quant=fp4"}};

Problem ratio_problem(const Case& shape, const char* numerics) {
  Problem problem = problem_of(shape, numerics);
  problem.ratio = kRatio;
  return problem;
}

// From the first position to the last that sees all rows, whatever position % ratio.
Inputs ratio_inputs(const Case& shape, const char* numerics) {
  Inputs in = make_inputs(1, shape, Values::kNormal, numerics);
  Random random(2);
  const int64_t last = (shape.context + 1) * kRatio - 2;
  for (size_t t = 0; t < in.places.size(); ++t)
    in.places[t].position = static_cast<int32_t>(t == 0 ? last : t == 1 ? 0 : random.below(last + 1));
  return in;
}

TEST(index_select, agrees_with_the_reference_where_rows_stand_for_four_tokens) {
  for (const Row& row : kV4Rows) {
    for (const Case& shape : kRatioCases) {
      const Problem problem = ratio_problem(shape, row.numerics);
      const audit::OpReport report = judged(*row.row, problem, ratio_inputs(shape, row.numerics), 2);
      EXPECT_TRUE(report.within()) << shape.what << ", " << row.numerics << "\n" << describe(report);
    }
  }
}

TEST(index_select, a_token_sees_the_rows_whose_tokens_are_all_there) {
  const Case shape{"", 9, 2, 16, 3, 1, 6};
  for (const Row& row : kV4Rows) {
    const Problem problem = ratio_problem(shape, row.numerics);
    Inputs in = make_inputs(1, shape, Values::kNormal, row.numerics);
    for (const Implementation* const any : {row.row, &kReference}) {
      for (int32_t t = 0; t < 9; ++t) in.places[static_cast<size_t>(t)] = {0, t};
      const Result made = result(*any, problem, in);
      for (int64_t t = 0; t < 9; ++t)
        for (int64_t s = 0; s < 6; ++s)
          EXPECT_EQ(made.scores[static_cast<size_t>(t * 6 + s)] == -kInfinity, s >= (t + 1) / 4);
      EXPECT_EQ(std::vector<int32_t>(made.selected.begin(), made.selected.begin() + 27),
                (std::vector<int32_t>{-1, -1, -1, -1, -1, -1, -1, -1, -1, 0,  -1, -1, 0, -1,
                                      -1, 0,  -1, -1, 0,  -1, -1, 0,  1,  -1, 0,  1,  -1}));
      EXPECT_EQ(result(*any, problem, in, 2, Scores::kNotAsked).selected, made.selected);
    }
  }
}

TEST(index_select, tokens_that_see_no_row_choose_none) {
  const Case shape{"", 3, 2, 16, 2, 1, 6};
  for (const Row& row : kV4Rows) {
    Inputs in = make_inputs(1, shape, Values::kNormal, row.numerics);
    in.places = {{0, 2}, {0, 0}, {0, 1}};
    for (const Implementation* const any : {row.row, &kReference}) {
      for (const Scores scores : {Scores::kAsked, Scores::kNotAsked}) {
        const Result made = result(*any, ratio_problem(shape, row.numerics), in, 1, scores);
        EXPECT_EQ(made.selected, std::vector<int32_t>(6, -1));
        EXPECT_EQ(made.scores, std::vector<float>(18, scores == Scores::kAsked ? -kInfinity : 7.0f));
      }
    }
  }
}

TEST(index_select, chooses_as_a_token_that_sees_as_many_rows_of_one_token) {
  for (const Row& row : kV4Rows) {
    for (const Case& shape : kRatioCases) {
      Inputs in = ratio_inputs(shape, row.numerics);
      const Problem problem = ratio_problem(shape, row.numerics);
      for (TokenPlace& place : in.places) place.position = std::max(place.position, 3);  // see a row
      if (shape.context == 0) continue;
      const Result made = result(*row.row, problem, in, 3);
      for (TokenPlace& place : in.places)
        place.position = static_cast<int32_t>(visible(problem, place.position) - 1);
      const Result plain = result(*row.row, problem_of(shape, row.numerics), in);
      EXPECT_EQ(made.selected, plain.selected) << shape.what;
      EXPECT_EQ(made.scores, plain.scores) << shape.what;
    }
  }
}

// 1M positions are 256k rows.
TEST(index_select, the_choice_is_exact_at_a_million_positions) {
  const char* const numerics = "serving,index_quant=fp4";
  const Case shape{"", 2, 4, 32, 2048, 1, 262144};
  Inputs in = make_inputs(3, shape, Values::kNormal, numerics);
  in.places = {{0, 1048575}, {0, 700001}};
  for (const int64_t topk : {512, 1024, 2048}) {
    Problem problem = ratio_problem(shape, numerics);
    problem.topk = topk;
    const Result made = result(kCpuPairs, problem, in, 2);
    EXPECT_EQ(made.selected, sorted_choice(problem, in, made.scores));
    EXPECT_EQ(result(kCpuPairs, problem, in, 1, Scores::kNotAsked).selected, made.selected);
  }
}

TEST(index_select, names_the_position_that_sees_more_rows_than_there_are) {
  const Case shape{"", 1, 3, 4, 5, 1, 9};
  const Problem problem = ratio_problem(shape, "serving");
  Inputs in = make_inputs(8, shape, Values::kNormal, "serving");
  Result out;
  const auto message = [&](int32_t position) {
    in.places = {{0, position}};
    return test::message_of([&] { check(problem, args_of(problem, in, out, Scores::kAsked)); });
  };
  EXPECT_EQ(message(38), "");
  EXPECT_EQ(message(39), "index_select: places, a position: expected a value in [0, 38], found 39");
}

}  // namespace
}  // namespace fulgurite::index_select
