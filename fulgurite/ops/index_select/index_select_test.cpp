#include "fulgurite/ops/index_select/index_select.h"

#include "fulgurite/ops/index_select/test_inputs.h"

namespace fulgurite::index_select {
namespace {

void expect_agreement(const Case& shape, Values values, const Row& row) {
  SCOPED_TRACE(
      fmt::format("{}, {}, {} {}, seed 1", shape.what, inputs::name(values), row.row->name, row.numerics));
  const audit::OpReport report =
      judged(*row.row, problem_of(shape, row.numerics), make_inputs(1, shape, values, row.numerics), 2);
  EXPECT_TRUE(report.within()) << describe(report);
}

TEST(index_select, scores_agree_and_the_choice_is_exact_beyond_topk) {
  for (const Row& row : kRows)
    for (const Case& shape : kLongCases)
      for (const Values values : inputs::kAllValues) expect_agreement(shape, values, row);
}

TEST(index_select, scores_agree_and_the_choice_is_exact_up_to_topk) {
  for (const Row& row : kRows)
    for (const Case& shape : kShortCases)
      for (const Values values : inputs::kAllValues) expect_agreement(shape, values, row);
}

TEST(index_select, scores_agree_and_the_choice_is_exact_at_real_sizes) {
  for (const Case& shape : kRealCases)
    for (const Row& row : {kRows[0], kRows[1]}) expect_agreement(shape, Values::kNormal, row);
}

TEST(index_select, huge_values_infinities_and_NaN_agree) {
  const Case shape{"", 4, 3, 33, 20, 1, 150};
  const float hard[] = {3e38f, -3e38f, kInfinity, -kInfinity, kNaN};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(5, shape, Values::kNormal, row.numerics);
    for (int64_t i = 0; i < 5; ++i) {
      in.weights.view(i % 4, 1) = hard[i];
      in.scales.view(0, 7 + i) = hard[i];
      if (in.q.view.dtype != DType::kF8_E4M3) store(in.key_cache.view, hard[i], 0, 20 + i, 2 * i);
    }
    const audit::OpReport report = judged(*row.row, problem_of(shape, row.numerics), in);
    EXPECT_TRUE(report.within()) << row.numerics << "\n" << describe(report);
  }
}

// Heads (1, 2) and (-3, 1) with weights 0.5 and -2; keys (4, 1) and (-1, 2), of codes times 2 and 0.5.
TEST(index_select, a_score_is_the_scaled_sum_of_weighted_rectified_products) {
  const Case shape{"", 1, 2, 2, 1, 1, 2};
  const float q[] = {1.0f, 2.0f, -3.0f, 1.0f}, keys[] = {4.0f, 1.0f, -1.0f, 2.0f};
  for (const Row& row : kExact) {
    Inputs in = make_inputs(3, shape, Values::kNormal, row.numerics);
    for (int64_t i = 0; i < 4; ++i) {
      if (in.q.view.dtype == DType::kF8_E4M3) {
        in.q.view.as<e4m3>()(0, i / 2, i % 2) = to_e4m3(q[i]);
        in.key_cache.view.as<e4m3>()(0, i / 2, i % 2) = to_e4m3(keys[i]);
      } else {
        store(in.q.view, q[i], 0, i / 2, i % 2);
        store(in.key_cache.view, keys[i], 0, i / 2, i % 2);
      }
    }
    in.weights.view(0, 0) = 0.5f;
    in.weights.view(0, 1) = -2.0f;
    in.scales.view(0, 0) = 2.0f;
    in.scales.view(0, 1) = 0.5f;
    const bool scaled = in.q.view.dtype == DType::kF8_E4M3;
    const Result out = result(*row.row, problem_of(shape, row.numerics), in);
    EXPECT_EQ(out.scores,
              (std::vector<float>{3.0f * (scaled ? 2.0f : 1.0f), -8.5f * (scaled ? 0.5f : 1.0f)}));
    EXPECT_EQ(out.selected, (std::vector<int32_t>{0}));
  }
}

TEST(index_select, the_head_sum_is_fused_and_ascending) {
  const Case shape{"", 1, 9, 1, 1, 1, 40};
  for (const Row& row : kExact) {
    const Inputs in = make_inputs(4, shape, Values::kNormal, row.numerics, true);
    Inputs fractions = in;
    Random random(9);
    for (float& weight : fractions.weights.elements) weight = static_cast<float>(random.normal());
    const Result out = result(*row.row, problem_of(shape, row.numerics), fractions);
    const auto value = [](const Tensor<1>& x) {
      return x.dtype == DType::kF8_E4M3 ? to_float(x.as<e4m3>()(0)) : load(x, 0);
    };
    for (int64_t s = 0; s < 40; ++s) {
      float sum = 0.0f;
      for (int64_t h = 0; h < 9; ++h)
        sum = std::fma(fractions.weights.view(0, h),
                       std::max(0.0f, value(in.q.view[0][h]) * value(in.key_cache.view[0][s])), sum);
      const float scale = in.q.view.dtype == DType::kF8_E4M3 ? in.scales.view(0, s) : 1.0f;
      EXPECT_EQ(out.scores[static_cast<size_t>(s)], scale * sum);
    }
  }
}

TEST(index_select, reads_neither_unseen_keys_nor_other_sequences) {
  const Case shape{"", 3, 2, 16, 10, 3, 200};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(6, shape, Values::kNormal, row.numerics);
    in.places = {{1, 99}, {1, 30}, {1, 70}};
    const Problem problem = problem_of(shape, row.numerics);
    const Result clean = result(*row.row, problem, in);
    const size_t row_bytes = in.key_cache.bytes->size() / 600;
    for (size_t s = 0; s < 600; ++s)
      if (s / 200 != 1 || s % 200 > 99)
        std::fill_n(in.key_cache.bytes->begin() + static_cast<int64_t>(s * row_bytes), row_bytes,
                    std::byte{0x7F});
    for (const Implementation* const any : {row.row, &kReference}) {
      const Result out = result(*any, problem, in);
      EXPECT_EQ(out.selected, sorted_choice(problem, in, clean.scores));
      for (int64_t s = 100; s < 200; ++s) EXPECT_EQ(out.scores[static_cast<size_t>(s)], -kInfinity);
    }
  }
}

TEST(index_select, reads_heads_and_keys_of_any_stride) {
  const Case wide{"", 3, 6, 40, 12, 2, 150};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(7, wide, Values::kNormal, row.numerics, true);
    in.q.view = in.q.view.slice(1, 1, 4).slice(2, 5, 21);
    in.weights.view = in.weights.view.slice(1, 2, 4);
    in.key_cache.view = in.key_cache.view.slice(2, 11, 21);
    const Problem problem = problem_of({"", 3, 4, 21, 12, 2, 150}, row.numerics);
    EXPECT_EQ(result(*row.row, problem, in).selected, result(kReference, problem, in).selected);
  }
}

template <auto spoil>  // what it does to the outputs
constexpr Implementation spoiled() {
  return {"spoiled", kCpuPairs.supports, kCpuPairs.workspace_bytes,
          [](const Problem& problem, const Args& args, const Lane& lane) {
            kCpuPairs.run(problem, args, lane);
            spoil(args);
          }};
}

TEST(index_select, the_judge_rejects_a_wrong_choice_order_and_score) {
  const Case shape{"", 2, 3, 32, 5, 1, 100};
  const Problem problem = problem_of(shape, "serving");
  Inputs in = make_inputs(8, shape, Values::kNormal, "serving");
  in.places = {{0, 99}, {0, 98}};
  const auto beyond = [&](const Implementation& row) {
    std::vector<int64_t> counts;
    for (const audit::OutputReport& output : judged(row, problem, in).outputs)
      counts.push_back(output.difference.beyond);
    return counts;
  };
  using Counts = std::vector<int64_t>;
  EXPECT_EQ(beyond(kCpuPairs), (Counts{0, 0, 0}));
  // The last one chosen is replaced by the last visible key, which is none of the best here.
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { a.selected(1, 4) = 98; }>()), (Counts{0, 1, 1}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) { std::swap(a.selected(0, 1), a.selected(0, 2)); }>()),
            (Counts{0, 2, 0}));
  EXPECT_EQ(beyond(spoiled<[](const Args& a) {
              if (a.scores) a.scores(0, 99) *= 1.01f;
            }>())[0],
            1);
  EXPECT_EQ(beyond(spoiled<[](const Args& a) {
              if (a.scores) a.scores(1, 99) = 0.0f;  // not visible
            }>())[0],
            1);
}

TEST(index_select, names_the_tensor_that_breaks_the_contract) {
  const Case shape{"", 2, 3, 4, 5, 2, 9};
  const Problem problem = problem_of(shape, "serving");
  Inputs in = make_inputs(8, shape, Values::kNormal, "serving");
  in.places = {{0, 8}, {1, 0}};
  Result out;
  const auto message = [&](auto change) {
    Args args = args_of(problem, in, out, Scores::kAsked);
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& a) { a.q = a.q.slice(1, 0, 2); }),
            "index_select: q: expected shape [2, 3, 4], found [2, 2, 4]");
  EXPECT_EQ(message([](Args& a) { a.weights = a.weights.slice(0, 0, 1); }),
            "index_select: weights: expected shape [2, 3], found [1, 3]");
  EXPECT_EQ(message([](Args& a) { a.key_cache.keys = a.key_cache.keys.slice(1, 0, 8); }),
            "index_select: key_cache: expected shape [2, 9, 4], found [2, 8, 4]");
  EXPECT_EQ(message([](Args& a) { a.key_cache.scales = {}; }),
            "index_select: key_cache, scales: expected shape [2, 9], found [0, 0]");
  EXPECT_EQ(message([](Args& a) { a.places = a.places.slice(0, 0, 1); }),
            "index_select: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& a) { a.selected = a.selected.slice(1, 0, 4); }),
            "index_select: selected: expected shape [2, 5], found [2, 4]");
  EXPECT_EQ(message([](Args& a) { a.scores = a.scores.slice(1, 0, 4); }),
            "index_select: scores: expected shape [2, 9], found [2, 4]");
  in.places[1].position = 9;
  EXPECT_EQ(message([](Args&) {}), "index_select: places, a position: expected a value in [0, 8], found 9");
  in.places[1] = {2, 0};
  EXPECT_EQ(message([](Args&) {}), "index_select: places, a sequence: expected a value in [0, 1], found 2");
}

TEST(index_select, refuses_numerics_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const char* numerics) {
    return test::refusal(row, problem_of(kLongCases[0], numerics));
  };
  EXPECT_EQ(refusal(kCpu, "fp32,activation=bf16"), "activation = bf16, takes fp32");
  EXPECT_EQ(refusal(kCpu, "fp32,index_quant=fp8"), "index_quant = fp8, takes none");
  EXPECT_EQ(refusal(kCpuPairs, "fp32"),
            "index_quant = none with activation = fp32, takes operands of bf16 or e4m3");
  for (const Implementation* const row : {&kReference, &kCpuPairs}) {
    EXPECT_EQ(refusal(*row, "serving,activation=fp16"), "");
    EXPECT_EQ(refusal(*row, "serving,mma=hopper"), row == &kReference ? "" : "mma = hopper, takes exact");
  }
  EXPECT_EQ(refusal(kCpu, "fp32,mma=hopper"), "mma = hopper, takes exact");
  EXPECT_EQ(refusal(kReference, "fp32,mma=hopper"), "mma = hopper with operands of f32, takes bf16 or e4m3");
}

}  // namespace
}  // namespace fulgurite::index_select
