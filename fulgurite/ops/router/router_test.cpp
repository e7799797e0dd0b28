// Longer than other tests: the whole contract of the operation, claim by claim.

#include "fulgurite/ops/router/router.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/router/router_cases.h"
#include "test/op_test.h"

namespace fulgurite::router {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
const Implementation* const kBoth[] = {&kReference, &kCpu};

struct Inputs {
  Buffer<2> x;
  inputs::Weight weight;
  Buffer<1> bias;
};

// Logits of the order of one, as trained routers have.
Inputs make_inputs(uint64_t seed, const Case& shape, const MatrixFormat& format, Values values) {
  Random random(seed);
  Inputs in{inputs::make(random, values, shape.tokens, shape.hidden),
            inputs::make_weight(random, shape.experts, shape.hidden, format),
            inputs::make(random, values == Values::kConstant ? values : Values::kNormal, shape.experts)};
  const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.hidden)));
  for (float& x : in.x.elements) x *= scale;
  return in;
}

Problem problem_of(const Case& shape, const MatrixFormat& format, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.hidden, shape.experts, shape.groups, shape.groups_kept,
          shape.experts_per_token, 2.5f,         format};
}

struct Result {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Result result(const Implementation& implementation, const Problem& problem, View<const float, 2> x,
              const Inputs& in, int threads = 1) {
  const int64_t tokens = x.extent[0];
  const auto count = static_cast<size_t>(tokens * problem.experts_per_token);
  Result out{std::vector<int32_t>(count, -7), std::vector<float>(count, -7.0f)};
  test::run(implementation, problem,
            Args{x,
                 &in.weight.matrix,
                 in.bias.view,
                 {out.ids.data(), {tokens, problem.experts_per_token}},
                 {out.weights.data(), {tokens, problem.experts_per_token}}},
            threads);
  return out;
}

// One token in double, and how far an implementation may be from it.
struct Exact {
  std::vector<double> s, z;
  double logit_error = 0.0;
  double z_error = 0.0;
};

Exact exact(const Problem& problem, const Inputs& in, int64_t t) {
  Exact token;
  for (int64_t e = 0; e < problem.experts; ++e) {
    double sum = 0.0, magnitude = 0.0;
    for (int64_t i = 0; i < problem.hidden; ++i) {
      const double product = in.x.view(t, i) * exact_element(in.weight.matrix, e, i);
      sum += product;
      magnitude += std::abs(product);
    }
    const double error = (static_cast<double>(problem.hidden) / 16 + 8) * 0x1p-24 * magnitude;
    token.s.push_back(1.0 / (1.0 + std::exp(-sum)));
    token.z.push_back(token.s.back() + in.bias.view(e));
    token.logit_error = std::max(token.logit_error, error);
    token.z_error = std::max(token.z_error, error / 4 + 0x1p-24 * (1.0 + std::abs(in.bias.view(e))));
  }
  return token;
}

// True where `values` has no doubt about its `count` largest, each being known to within `error`.
bool clear_cut(std::vector<double> values, int64_t count, double error) {
  std::sort(values.begin(), values.end(), std::greater<>());
  const auto cut = static_cast<size_t>(count);
  return cut == values.size() || values[cut - 1] - values[cut] > 2 * error;
}

// Is the choice beyond doubt, given the errors of the logits? The group of each chosen expert was kept.
bool is_clear(const Problem& problem, const Exact& token, std::span<const int32_t> chosen) {
  const int64_t size = problem.experts / problem.groups;
  std::vector<double> groups;
  for (int64_t g = 0; g < problem.groups; ++g) {
    std::vector<double> z(token.z.begin() + g * size, token.z.begin() + (g + 1) * size);
    std::sort(z.begin(), z.end(), std::greater<>());
    groups.push_back(size == 1 ? z[0] : z[0] + z[1]);
  }
  if (!clear_cut(groups, problem.groups_kept, 2 * token.z_error)) return false;
  std::vector<double> sorted = groups;
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  std::vector<double> staying;
  for (int64_t e = 0; e < problem.experts; ++e)
    if (groups[static_cast<size_t>(e / size)] >= sorted[static_cast<size_t>(problem.groups_kept - 1)])
      staying.push_back(token.z[static_cast<size_t>(e)]);
  for (const int32_t e : chosen)
    if (token.s[static_cast<size_t>(e)] < 0x1p-100) return false;  // weights of denormals
  return clear_cut(staying, problem.experts_per_token, token.z_error);
}

// Tokens whose choice is clear.
int64_t expect_agreement(const Case& shape, const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", shape.what, describe(format), inputs::name(values)));
  const Problem problem = problem_of(shape, format);
  const Inputs in = make_inputs(1, shape, format, values);
  const Result expected = result(kReference, problem, in.x.view, in);
  const Result actual = result(kCpu, problem, in.x.view, in);
  const auto chosen = static_cast<size_t>(problem.experts_per_token);
  int64_t clear = 0;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const size_t first = static_cast<size_t>(t) * chosen;
    const std::span<const int32_t> ids{&expected.ids[first], chosen};
    const Exact token = exact(problem, in, t);
    if (!is_clear(problem, token, ids)) continue;
    ++clear;
    EXPECT_TRUE(std::equal(ids.begin(), ids.end(), actual.ids.begin() + static_cast<int64_t>(first)));
    const double share =
        std::expm1(2 * token.logit_error) + (2.0 * static_cast<double>(chosen) + 8) * 0x1p-24;
    std::vector<double> bounds;
    for (size_t j = 0; j < chosen; ++j) bounds.push_back(share * expected.weights[first + j]);
    EXPECT_TRUE(test::agrees({&actual.weights[first], chosen}, {&expected.weights[first], chosen}, bounds));
  }
  return clear;
}

TEST(router, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases) {
    for (const Values values : inputs::kAllValues) expect_agreement(shape, kF32, values);
    EXPECT_EQ(expect_agreement(shape, kBF16, Values::kNormal), shape.tokens);
  }
}

TEST(router, agrees_with_the_reference_at_real_sizes) {
  for (const Case& shape : kRealCases)
    for (const MatrixFormat& format : {kF32, kBF16})
      EXPECT_GE(expect_agreement(shape, format, Values::kNormal), shape.tokens - 1);
}

// Inputs of one token whose logits are `logits`, exactly.
struct Given {
  Inputs in;
  Problem problem;
};

Given with_logits(const std::vector<float>& logits, const std::vector<float>& bias, int64_t groups,
                  int64_t groups_kept, int64_t chosen) {
  const auto experts = static_cast<int64_t>(logits.size());
  const Case shape{"", 1, 1, experts, groups, groups_kept, chosen};
  Inputs in = make_inputs(0, shape, kF32, Values::kConstant);
  in.x.elements[0] = 1.0f;
  std::copy(logits.begin(), logits.end(), reinterpret_cast<float*>(in.weight.data->data()));
  std::copy(bias.begin(), bias.end(), in.bias.elements.begin());
  return {std::move(in), problem_of(shape, kF32)};
}

std::vector<int32_t> chosen(const Implementation& implementation, const Given& given) {
  return result(implementation, given.problem, given.in.x.view, given.in).ids;
}

using Ids = std::vector<int32_t>;

TEST(router, groups_are_ranked_by_their_two_largest) {
  // Sums of two: 3.5, 4, 2, 3.8; the largest single value stands in a group that goes.
  const std::vector<float> bias{3, 0.5f, 0, 2, 2, 2, 0, 0, 2, 1.9f, 1.9f, 0};
  for (const Implementation* const row : kBoth) {
    EXPECT_EQ(chosen(*row, with_logits(std::vector<float>(12), bias, 4, 2, 3)), (Ids{3, 4, 5}));
    EXPECT_EQ(chosen(*row, with_logits(std::vector<float>(12), bias, 4, 3, 3)), (Ids{0, 3, 4}));
    EXPECT_EQ(chosen(*row, with_logits(std::vector<float>(12), bias, 12, 2, 2)), (Ids{0, 3}));
    EXPECT_EQ(chosen(*row, with_logits(std::vector<float>(12), bias, 1, 1, 1)), (Ids{0}));
  }
}

TEST(router, ties_go_to_the_lower_group_and_the_lower_expert) {
  for (const Implementation* const row : kBoth) {
    const std::vector<float> zeros(8);
    EXPECT_EQ(chosen(*row, with_logits(zeros, zeros, 4, 2, 3)), (Ids{0, 1, 2}));
    EXPECT_EQ(chosen(*row, with_logits({0, 0, 1, 1, 1, 1, 0, 0}, zeros, 4, 1, 1)), (Ids{2}));
    EXPECT_EQ(chosen(*row, with_logits(zeros, {-1, 0, -1, 0, -0.0f, -1, 0, -1}, 1, 1, 2)), (Ids{1, 3}));
  }
}

TEST(router, the_bias_chooses_and_does_not_weigh) {
  const Given given = with_logits({0, 0, 0, 0}, {0, 5, -5, 1}, 1, 1, 2);
  for (const Implementation* const row : kBoth) {
    const Result out = result(*row, given.problem, given.in.x.view, given.in);
    EXPECT_EQ(out.ids, (Ids{1, 3}));
    EXPECT_EQ(out.weights, (std::vector<float>{1.25f, 1.25f}));
  }
}

TEST(router, weights_are_shares_of_the_chosen_sigmoids) {
  const Given given = with_logits({-1, 2, 0.5f, -3}, {0, 0, 0, 0}, 1, 1, 3);
  const auto sigmoid = [](double l) { return static_cast<float>(1 / (1 + std::exp(-l))); };
  const float sum = (sigmoid(-1) + sigmoid(2)) + sigmoid(0.5);
  for (const Implementation* const row : kBoth)
    EXPECT_EQ(
        result(*row, given.problem, given.in.x.view, given.in).weights,
        (std::vector<float>{sigmoid(-1) / sum * 2.5f, sigmoid(2) / sum * 2.5f, sigmoid(0.5) / sum * 2.5f}));
}

TEST(router, a_NaN_ranks_below_everything) {
  const std::vector<float> zeros(6);
  for (const Implementation* const row : kBoth) {
    EXPECT_EQ(chosen(*row, with_logits({kNaN, -kInfinity, kNaN, -1, kNaN, 3}, zeros, 1, 1, 3)),
              (Ids{1, 3, 5}));
    EXPECT_EQ(chosen(*row, with_logits({kNaN, -kInfinity, kNaN, -1, kNaN, 3}, zeros, 1, 1, 5)),
              (Ids{0, 1, 2, 3, 5}));
    EXPECT_EQ(chosen(*row, with_logits({kNaN, kNaN, kNaN, 9, -9, -9}, zeros, 3, 1, 1)), (Ids{4}));
    EXPECT_EQ(chosen(*row, with_logits({kNaN, 1, 1, -1, -1, -1}, zeros, 2, 1, 2)), (Ids{1, 2}));
    EXPECT_EQ(chosen(*row, with_logits(std::vector<float>(6, kNaN), zeros, 3, 2, 3)), (Ids{0, 1, 2}));
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
      const Given given = with_logits(logits, bias, shape.groups, shape.groups_kept, shape.experts_per_token);
      const Result expected = result(kReference, given.problem, given.in.x.view, given.in);
      const Result actual = result(kCpu, given.problem, given.in.x.view, given.in);
      ASSERT_EQ(actual.ids, expected.ids) << "groups " << shape.groups << ", trial " << trial;
      for (size_t j = 0; j < expected.weights.size(); ++j)
        ASSERT_TRUE(actual.weights[j] == expected.weights[j] ||
                    (std::isnan(actual.weights[j]) && std::isnan(expected.weights[j])));
    }
  }
}

TEST(router, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 67, 77, 12, 3, 2, 4};
  const Inputs in = make_inputs(3, shape, kBF16, Values::kNormal);
  const Result whole = result(kCpu, problem_of(shape, kBF16), in.x.view, in);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    const Problem problem = problem_of(shape, kBF16, isa);
    for (const int threads : {1, 2, 3}) {
      const Result same = result(kCpu, problem, in.x.view, in, threads);
      EXPECT_EQ(same.ids, whole.ids);
      EXPECT_TRUE(test::identical(same.weights, whole.weights));
    }
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const Result one = result(kCpu, problem, in.x.view.slice(0, t, 1), in);
      EXPECT_TRUE(std::equal(one.ids.begin(), one.ids.end(), whole.ids.begin() + t * 4));
      EXPECT_TRUE(test::identical(one.weights, {&whole.weights[static_cast<size_t>(t * 4)], 4}));
    }
  }
}

TEST(router, a_NaN_or_infinity_stays_in_its_token) {
  const Case shape{"", 4, 30, 8, 4, 2, 2};
  Inputs in = make_inputs(4, shape, kF32, Values::kNormal);
  const Result clean = result(kReference, problem_of(shape, kF32), in.x.view, in);
  in.x.view(1, 29) = kNaN;
  in.x.view(2, 0) = kInfinity;
  for (const Implementation* const row : kBoth) {
    const Result out = result(*row, problem_of(shape, kF32), in.x.view, in);
    for (const size_t j : {2, 3}) {
      EXPECT_TRUE(std::isnan(out.weights[j]));
      EXPECT_EQ(out.ids[j], static_cast<int32_t>(j - 2));
    }
    for (const size_t j : {0, 1, 6, 7}) {
      EXPECT_EQ(out.ids[j], clean.ids[j]);
      EXPECT_NEAR(out.weights[j], clean.weights[j], 1e-5);
    }
  }
}

TEST(router, names_the_tensor_of_a_wrong_shape) {
  const Case shape{"", 2, 5, 8, 4, 2, 3};
  const Problem problem = problem_of(shape, kF32);
  const Inputs in = make_inputs(5, shape, kF32, Values::kNormal);
  std::vector<int32_t> ids(6);
  std::vector<float> weights(6);
  const auto message = [&](auto change) {
    Args args{in.x.view, &in.weight.matrix, in.bias.view, {ids.data(), {2, 3}}, {weights.data(), {2, 3}}};
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
  for (const Implementation* const row : kBoth) {
    Problem problem = problem_of(kAwkwardCases[0], kF32);
    problem.setting.numerics.activation = Activation::kBf16;
    EXPECT_EQ(test::refusal(*row, problem), "activation = bf16, takes fp32");
    problem.setting.numerics = Numerics::fp32();
    problem.setting.numerics.mma = Mma::kHopper;
    EXPECT_EQ(test::refusal(*row, problem), "mma = hopper, takes exact");
    problem.setting.numerics = Numerics::fp32();
    problem.weight = {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
    EXPECT_EQ(test::refusal(*row, problem), "weight = e4m3 128x128, scales f32, takes f32 or bf16");
  }
}

}  // namespace
}  // namespace fulgurite::router
