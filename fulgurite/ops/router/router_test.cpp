// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/router/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/router/router_audit.h"
#include "fulgurite/ops/router/router_cases.h"
#include "test/op_test.h"

namespace fulgurite::router {
namespace {

using inputs::Buffer;
using inputs::TensorBuffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

// A row, the preset that it is tried in, and the weight that it reads.
struct Row {
  const Implementation& implementation;
  Setting (*setting)(Isa);
  MatrixFormat weight;
  DType activation() const { return activation_type(setting(Isa::kPortable).numerics); }
};
const Row kRows[] = {{kReference, test::fp32_setting, kF32},   {kCpu, test::fp32_setting, kF32},
                     {kCpu, test::fp32_setting, kBF16},        {kReference, test::serving_setting, kBF16},
                     {kCpu, test::serving_setting, kF32},      {kCpu, test::serving_setting, kBF16},
                     {kCpuBf16, test::serving_setting, kBF16}, {kReference, test::fp16_setting, kBF16},
                     {kCpu, test::fp16_setting, kF32},         {kCpu, test::fp16_setting, kBF16}};

std::string describe(const Row& row) {
  return fmt::format("{}, x {}, weight {}", row.implementation.name, name(row.activation()),
                     describe(row.weight));
}

struct Inputs {
  TensorBuffer<2> x;
  inputs::Weight weight;
  Buffer<1> bias;
};

// Logits of the order of one, as trained routers have.
Inputs make_inputs(uint64_t seed, const Case& shape, const Row& row, Values values) {
  Random random(seed);
  Inputs in{inputs::make_tensor(random, values, row.activation(), std::array{shape.tokens, shape.hidden}),
            inputs::make_weight(random, shape.experts, shape.hidden, row.weight),
            inputs::make(random, values == Values::kConstant ? values : Values::kNormal, shape.experts)};
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.hidden)));
  for (int64_t t = 0; t < shape.tokens; ++t)
    for (int64_t i = 0; i < shape.hidden; ++i) store(in.x.view, load(in.x.view, t, i) * scale, t, i);
  return in;
}

Problem problem_of(const Case& shape, const Row& row, Isa isa = cpu::best_isa()) {
  return {row.setting(isa),        shape.hidden, shape.experts, shape.groups, shape.groups_kept,
          shape.experts_per_token, 2.5f,         row.weight};
}

struct Result {
  std::vector<int32_t> ids;
  std::vector<float> weights;

  Result(int64_t tokens, int64_t chosen)
      : ids(static_cast<size_t>(tokens * chosen), -7), weights(static_cast<size_t>(tokens * chosen), -7.0f) {}
};

Args args_of(const Problem& problem, ConstTensor<2> x, const Inputs& in, Result& out) {
  const std::array<int64_t, 2> shape{x.extent[0], problem.experts_per_token};
  return {x, &in.weight.matrix, in.bias.view, {out.ids.data(), shape}, {out.weights.data(), shape}};
}

Result result(const Implementation& implementation, const Problem& problem, ConstTensor<2> x,
              const Inputs& in, int threads = 1) {
  Result out(x.extent[0], problem.experts_per_token);
  test::run(implementation, problem, args_of(problem, x, in, out), threads);
  return out;
}

audit::OpReport judged(const Implementation& implementation, const Problem& problem, const Inputs& in) {
  Result out(in.x.view.extent[0], problem.experts_per_token);
  const test::ExactBytes workspace(implementation.workspace_bytes(problem, 1));
  std::ranges::fill(workspace.bytes(), std::byte{0xFF});  // NaN, whatever it is read as
  return judge(implementation, problem, args_of(problem, in.x.view, in, out),
               {1, nullptr, workspace.bytes()});
}

void expect_agreement(const Case& shape, const Row& row, Values values, Isa isa = cpu::best_isa()) {
  const Problem problem = problem_of(shape, row, isa);
  const audit::OpReport report = judged(row.implementation, problem, make_inputs(1, shape, row, values));
  EXPECT_TRUE(report.within()) << fmt::format("{}, {}, {}, {}, seed 1: {}", shape.what, describe(row),
                                              inputs::name(values), name(isa), audit::describe(report));
}

TEST(router, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Row& row : kRows)
      for (const Values values : inputs::kAllValues) expect_agreement(shape, row, values);
}

TEST(router, agrees_with_the_reference_on_denormals_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Row& row : kRows) expect_agreement(kAwkwardCases[2], row, Values::kDenormal, isa);
}

TEST(router, agrees_with_the_reference_at_real_sizes) {
  for (const Case& shape : kRealCases)
    for (const Row& row : kRows)
      if (&row.implementation != &kReference) expect_agreement(shape, row, Values::kNormal);
}

// The reference, but another expert of the last token, or a weight a little off.
void with_another_expert(const Problem& problem, const Args& args, const Lane& lane) {
  kReference.run(problem, args, lane);
  int32_t& last = args.expert_ids(args.x.extent[0] - 1, problem.experts_per_token - 1);
  last += last + 1 < problem.experts ? 1 : -1;
}
void with_another_weight(const Problem& problem, const Args& args, const Lane& lane) {
  kReference.run(problem, args, lane);
  args.expert_weights(0, 0) *= 1.1f;
}

TEST(router, its_audit_sees_another_expert_and_another_weight) {
  const Case& shape = kRealCases[0];
  for (const Row& row : kRows) {
    if (&row.implementation != &kReference) continue;
    const Inputs in = make_inputs(1, shape, row, Values::kNormal);
    Implementation wrong = kReference;
    wrong.run = with_another_expert;
    EXPECT_EQ(judged(wrong, problem_of(shape, row), in).outputs[0].difference.beyond, 1) << describe(row);
    wrong.run = with_another_weight;
    EXPECT_EQ(judged(wrong, problem_of(shape, row), in).outputs[1].difference.beyond, 1) << describe(row);
  }
}

// Inputs of one token whose logits are `logits`, exactly.
struct Given {
  const Row& row;
  Inputs in;
  Problem problem;

  Result result() const { return router::result(row.implementation, problem, in.x.view, in); }
  std::vector<int32_t> chosen() const { return result().ids; }
};

// Logits and biases that bf16 holds.
Given with_logits(const Row& row, const std::vector<float>& logits, const std::vector<float>& bias,
                  int64_t groups, int64_t groups_kept, int64_t chosen) {
  const auto experts = static_cast<int64_t>(logits.size());
  const Case shape{"", 1, 1, experts, groups, groups_kept, chosen};
  Inputs in = make_inputs(0, shape, row, Values::kConstant);
  store(in.x.view, 1.0f, 0, 0);
  for (int64_t e = 0; e < experts; ++e) {
    Tensor<1> weight = View<float, 1>(reinterpret_cast<float*>(in.weight.data->data()), {experts});
    weight.dtype = row.weight.form == MatrixForm::kBF16 ? DType::kBF16 : DType::kF32;
    store(weight, logits[static_cast<size_t>(e)], e);
  }
  std::copy(bias.begin(), bias.end(), in.bias.elements.begin());
  return {row, std::move(in), problem_of(shape, row)};
}

using Ids = std::vector<int32_t>;

TEST(router, groups_are_ranked_by_their_two_largest) {
  // Sums of two: 3.5, 4, 2, 3.8; the largest single value stands in a group that goes.
  const std::vector<float> bias{3, 0.5f, 0, 2, 2, 2, 0, 0, 2, 1.9f, 1.9f, 0};
  for (const Row& row : kRows) {
    EXPECT_EQ(with_logits(row, std::vector<float>(12), bias, 4, 2, 3).chosen(), (Ids{3, 4, 5}));
    EXPECT_EQ(with_logits(row, std::vector<float>(12), bias, 4, 3, 3).chosen(), (Ids{0, 3, 4}));
    EXPECT_EQ(with_logits(row, std::vector<float>(12), bias, 12, 2, 2).chosen(), (Ids{0, 3}));
    EXPECT_EQ(with_logits(row, std::vector<float>(12), bias, 1, 1, 1).chosen(), (Ids{0}));
  }
}

TEST(router, ties_go_to_the_lower_group_and_the_lower_expert) {
  for (const Row& row : kRows) {
    const std::vector<float> zeros(8);
    EXPECT_EQ(with_logits(row, zeros, zeros, 4, 2, 3).chosen(), (Ids{0, 1, 2}));
    EXPECT_EQ(with_logits(row, {0, 0, 1, 1, 1, 1, 0, 0}, zeros, 4, 1, 1).chosen(), (Ids{2}));
    EXPECT_EQ(with_logits(row, zeros, {-1, 0, -1, 0, -0.0f, -1, 0, -1}, 1, 1, 2).chosen(), (Ids{1, 3}));
  }
}

TEST(router, the_bias_chooses_and_does_not_weigh) {
  for (const Row& row : kRows) {
    const Result out = with_logits(row, {0, 0, 0, 0}, {0, 5, -5, 1}, 1, 1, 2).result();
    EXPECT_EQ(out.ids, (Ids{1, 3}));
    EXPECT_EQ(out.weights, (std::vector<float>{1.25f, 1.25f}));
  }
}

TEST(router, weights_are_shares_of_the_chosen_sigmoids) {
  const auto sigmoid = [](double l) { return static_cast<float>(1 / (1 + std::exp(-l))); };
  const float sum = (sigmoid(-1) + sigmoid(2)) + sigmoid(0.5);
  const std::vector<float> expected{sigmoid(-1) / sum * 2.5f, sigmoid(2) / sum * 2.5f,
                                    sigmoid(0.5) / sum * 2.5f};
  for (const Row& row : kRows)
    EXPECT_EQ(with_logits(row, {-1, 2, 0.5f, -3}, {0, 0, 0, 0}, 1, 1, 3).result().weights, expected);
}

TEST(router, the_sigmoid_is_rounded_once_and_exp_not_before_it) {
  const double exponential = std::exp(2.5);
  const auto weight = [](double e) {
    const auto s = static_cast<float>(1 / (1 + e));
    return s / (s + 0.5f) * 2.5f;
  };
  ASSERT_NE(weight(exponential), weight(static_cast<float>(exponential)));
  for (const Row& row : kRows)
    EXPECT_EQ(with_logits(row, {-2.5f, 0}, {0, 0}, 1, 1, 2).result().weights[0], weight(exponential));
}

// Where logits are exact: a sigmoid of fp32, 6 * 2^-24 off, passes; ten times that does not.
template <int units>
void with_a_weight_off(const Problem& problem, const Args& args, const Lane& lane) {
  kReference.run(problem, args, lane);
  args.expert_weights(0, 0) *= 1.0f + units * 0x1p-24f;
}

TEST(router, its_audit_takes_a_sigmoid_of_fp32_and_not_a_worse_one) {
  for (const Row& row : kRows) {
    const Given given = with_logits(row, {-2.5f, 0}, {0, 0}, 1, 1, 2);
    Implementation off = kReference;
    off.run = with_a_weight_off<6>;
    EXPECT_TRUE(judged(off, given.problem, given.in).within()) << describe(row);
    off.run = with_a_weight_off<60>;
    EXPECT_FALSE(judged(off, given.problem, given.in).within()) << describe(row);
  }
}

TEST(router, a_stored_weight_is_never_rounded) {
  // 1 + 2^-12 is no bf16: rounded, the two experts would tie and the lower be chosen.
  for (const Row& row : kRows) {
    if (row.weight.form != MatrixForm::kF32) continue;
    EXPECT_EQ(with_logits(row, {1.0f, 1.0f + 0x1p-12f}, {0, 0}, 1, 1, 1).chosen(), (Ids{1})) << describe(row);
  }
}

TEST(router, the_activation_is_read_as_stored) {
  // Two tokens of one column; in bf16 the second is the first.
  const Case shape{"", 1, 1, 2, 1, 1, 2};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(0, shape, row, Values::kConstant);
    std::vector<float> first;
    for (const float x : {1.0f, 1.0f + 0x1p-10f}) {
      store(in.x.view, x, 0, 0);
      first.push_back(result(row.implementation, problem_of(shape, row), in.x.view, in).weights[0]);
    }
    EXPECT_EQ(first[0] == first[1], row.activation() == DType::kBF16) << describe(row);
  }
}

TEST(router, a_NaN_ranks_below_everything) {
  const std::vector<float> zeros(6);
  for (const Row& row : kRows) {
    EXPECT_EQ(with_logits(row, {kNaN, -kInfinity, kNaN, -1, kNaN, 3}, zeros, 1, 1, 3).chosen(),
              (Ids{1, 3, 5}));
    EXPECT_EQ(with_logits(row, {kNaN, -kInfinity, kNaN, -1, kNaN, 3}, zeros, 1, 1, 5).chosen(),
              (Ids{0, 1, 2, 3, 5}));
    EXPECT_EQ(with_logits(row, {kNaN, kNaN, kNaN, 9, -9, -9}, zeros, 3, 1, 1).chosen(), (Ids{4}));
    EXPECT_EQ(with_logits(row, {kNaN, 1, 1, -1, -1, -1}, zeros, 2, 1, 2).chosen(), (Ids{1, 2}));
    EXPECT_EQ(with_logits(row, std::vector<float>(6, kNaN), zeros, 3, 2, 3).chosen(), (Ids{0, 1, 2}));
  }
}

TEST(router, given_equal_logits_the_implementations_give_equal_bits) {
  Random random(2);
  const Case shapes[] = {{"", 1, 1, 24, 4, 2, 5},
                         {"", 1, 1, 24, 8, 3, 6},
                         {"", 1, 1, 24, 24, 5, 5},
                         {"", 1, 1, 24, 1, 1, 23},
                         {"", 1, 1, 24, 12, 11, 9}};
  const float special[] = {kNaN, kInfinity, -kInfinity, -0.0f, 100.0f, -100.0f};
  for (const Case& shape : shapes) {
    for (int trial = 0; trial < 200; ++trial) {
      std::vector<float> logits, bias;
      for (int e = 0; e < 24; ++e) {
        logits.push_back(random.below(8) == 0 ? special[random.below(6)]
                                              : static_cast<float>(random.below(5)) - 2.0f);
        bias.push_back(static_cast<float>(random.below(3)) * 0.25f);
      }
      const Row& row = kRows[random.below(std::size(kRows))];
      const Given given =
          with_logits(row, logits, bias, shape.groups, shape.groups_kept, shape.experts_per_token);
      const Result expected = result(kReference, given.problem, given.in.x.view, given.in);
      const Result actual = given.result();
      ASSERT_EQ(actual.ids, expected.ids) << "groups " << shape.groups << ", trial " << trial;
      for (size_t j = 0; j < expected.weights.size(); ++j)
        ASSERT_TRUE(actual.weights[j] == expected.weights[j] ||
                    (std::isnan(actual.weights[j]) && std::isnan(expected.weights[j])));
    }
  }
}

// The dot products of bf16 pairs have bits of their own; all else is the same on every instruction set.
TEST(router, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 67, 177, 12, 3, 2, 4};
  for (const Row& row : kRows) {
    if (&row.implementation == &kReference) continue;
    const Inputs in = make_inputs(3, shape, row, Values::kNormal);
    const Result best = result(row.implementation, problem_of(shape, row), in.x.view, in);
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}", describe(row), name(isa)));
      const Problem problem = problem_of(shape, row, isa);
      const bool own_bits = &row.implementation == &kCpuBf16 && isa < Isa::kAvx512Bf16;
      const Result whole = own_bits ? result(kCpuBf16, problem, in.x.view, in) : best;
      for (const int threads : {1, 2, 3}) {
        const Result same = result(row.implementation, problem, in.x.view, in, threads);
        EXPECT_EQ(same.ids, whole.ids);
        EXPECT_TRUE(test::identical(same.weights, whole.weights));
      }
      for (int64_t t = 0; t < shape.tokens; ++t) {
        const ConstTensor<2> x = in.x.view.slice(0, t, 1);
        const Result one = result(row.implementation, problem, x, in);
        EXPECT_TRUE(std::equal(one.ids.begin(), one.ids.end(), whole.ids.begin() + t * 4));
        EXPECT_TRUE(test::identical(one.weights, {&whole.weights[static_cast<size_t>(t * 4)], 4}));
      }
    }
  }
}

TEST(router, reads_rows_of_any_stride) {
  const Case wide{"", 5, 60, 8, 4, 2, 3};
  for (const int64_t hidden : {30, 31}) {
    const Case shape{"", 5, hidden, 8, 4, 2, 3};
    for (const Row& row : kRows) {
      Inputs in = make_inputs(6, wide, row, Values::kNormal);
      in.weight = make_inputs(7, shape, row, Values::kNormal).weight;
      for (int64_t t = 0; t < 5; ++t) store(in.x.view, kNaN, t, 11 + hidden);
      in.x.view = in.x.view.slice(1, 11, hidden);
      EXPECT_TRUE(judged(row.implementation, problem_of(shape, row), in).within()) << describe(row);
      for (const float weight : result(row.implementation, problem_of(shape, row), in.x.view, in).weights)
        EXPECT_TRUE(std::isfinite(weight)) << describe(row);
    }
  }
}

TEST(router, a_NaN_or_infinity_stays_in_its_token) {
  const Case shape{"", 4, 30, 8, 4, 2, 2};
  for (const Row& row : kRows) {
    Inputs in = make_inputs(4, shape, row, Values::kNormal);
    const Result clean = result(row.implementation, problem_of(shape, row), in.x.view, in);
    store(in.x.view, kNaN, 1, 29);
    store(in.x.view, kInfinity, 2, 0);
    EXPECT_TRUE(judged(row.implementation, problem_of(shape, row), in).within()) << describe(row);
    const Result out = result(row.implementation, problem_of(shape, row), in.x.view, in);
    for (const size_t j : {2, 3}) {
      EXPECT_TRUE(std::isnan(out.weights[j]));
      EXPECT_EQ(out.ids[j], static_cast<int32_t>(j - 2));
    }
    for (const size_t j : {0, 1, 6, 7}) {
      EXPECT_EQ(out.ids[j], clean.ids[j]);
      EXPECT_EQ(out.weights[j], clean.weights[j]);
    }
  }
}

TEST(router, names_the_tensor_of_a_wrong_shape) {
  const Case shape{"", 2, 5, 8, 4, 2, 3};
  const Row& row = kRows[0];
  const Problem problem = problem_of(shape, row);
  const Inputs in = make_inputs(5, shape, row, Values::kNormal);
  const auto message = [&](auto change) {
    Result out(2, 3);
    Args args = args_of(problem, in.x.view, in, out);
    change(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.x = in.x.view.slice(1, 0, 4); }),
            "router: x: expected shape [2, 5], found [2, 4]");
  EXPECT_EQ(message([](Args& args) { args.bias = args.bias.slice(0, 0, 4); }),
            "router: bias: expected shape [8], found [4]");
  EXPECT_EQ(message([](Args& args) { args.expert_ids = args.expert_ids.slice(1, 0, 2); }),
            "router: expert_ids: expected shape [2, 3], found [2, 2]");
  EXPECT_EQ(message([](Args& args) { args.expert_weights = args.expert_weights.slice(0, 0, 1); }),
            "router: expert_weights: expected shape [2, 3], found [1, 3]");
}

TEST(router, refuses_numerics_and_weights_that_it_does_not_do) {
  for (const Row& row : kRows) {
    const Problem good = problem_of(kAwkwardCases[0], row);
    const auto reason = [&](auto change) {
      Problem problem = good;
      change(problem);
      return test::refusal(row.implementation, problem);
    };
    const bool bf16_alone = &row.implementation == &kCpuBf16;
    EXPECT_EQ(reason([](Problem&) {}), "");
    EXPECT_EQ(reason([](Problem& p) { p.setting.numerics.activation = Activation::kFp16; }),
              bf16_alone ? "activation = fp16, takes bf16" : "");
    EXPECT_EQ(reason([](Problem& p) { p.setting.numerics.activation = Activation::kFp32; }),
              bf16_alone ? "activation = fp32, takes bf16" : "");
    const bool reference = &row.implementation == &kReference;
    const Activation activation = good.setting.numerics.activation;
    EXPECT_EQ(reason([](Problem& p) { p.setting.numerics.mma = Mma::kHopper; }),
              !reference ? "mma = hopper, takes exact"
              : activation == Activation::kBf16
                  ? ""
                  : fmt::format("mma = hopper with activation = {}, takes bf16", value_name(activation)));
    EXPECT_EQ(reason([](Problem& p) { p.weight = kF32; }), bf16_alone ? "weight = f32, takes bf16" : "");
    EXPECT_EQ(
        reason([](Problem& p) {
          p.weight = {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
        }),
        std::string("weight = e4m3 128x128, scales f32, takes ") + (bf16_alone ? "bf16" : "f32 or bf16"));
  }
}

}  // namespace
}  // namespace fulgurite::router
