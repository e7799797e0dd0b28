#include "fulgurite/ops/norm/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/norm/norm_cases.h"
#include "test/op_test.h"

namespace fulgurite::norm {
namespace {

using inputs::Buffer;
using inputs::Values;

Problem problem_of(const Case& shape, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.width, 1e-6f};
}

// Everything that the operation may be given; a test leaves out what it does without.
struct Batch {
  Buffer<2> x, added, replaced;
  Buffer<1> weight;
};
Batch make_batch(const Case& shape, Values values) {
  Random random(1);
  const auto rows = [&] { return inputs::make(random, values, shape.tokens, shape.width); };
  Batch batch{rows(), rows(), rows(), inputs::make(random, Values::kNormal, shape.width)};
  return batch;
}

enum class Reads { kX, kXAndAdded, kReplaced };
constexpr Reads kAllReads[] = {Reads::kX, Reads::kXAndAdded, Reads::kReplaced};

Args args_of(const Batch& batch, Reads reads) {
  Args args;
  args.x = batch.x.view;
  if (reads != Reads::kX) args.added = batch.added.view;
  if (reads == Reads::kReplaced) args.replaced = batch.replaced.view;
  args.weight = batch.weight.view;
  return args;
}

struct Result {
  Buffer<2> sum, out;
};

Result result(const Implementation& implementation, const Problem& problem, Args args, int threads = 1) {
  Random unused(0);
  const auto rows = [&] { return inputs::make(unused, Values::kConstant, args.x.extent[0], problem.width); };
  Result made{rows(), rows()};
  args.sum = made.sum.view;
  args.out = made.out.view;
  test::run(implementation, problem, args, threads);
  return made;
}

// 8 * 2^-24 * |out| + (1 + |weight|) * 2^-149
std::vector<double> bound(const Result& expected, const Batch& batch) {
  std::vector<double> bounds;
  for (size_t i = 0; i < expected.out.elements.size(); ++i) {
    const double weight = batch.weight.elements[i % batch.weight.elements.size()];
    bounds.push_back(8 * 0x1p-24 * std::abs(expected.out.elements[i]) + (1 + std::abs(weight)) * 0x1p-149);
  }
  return bounds;
}

TEST(norm, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const Values values : inputs::kAllValues) {
      const Batch batch = make_batch(shape, values);
      for (const Reads reads : kAllReads) {
        SCOPED_TRACE(fmt::format("{}, {}, reads {}, seed 1", shape.what, inputs::name(values),
                                 static_cast<int>(reads)));
        const Result expected = result(kReference, problem_of(shape), args_of(batch, reads));
        const Result actual = result(kCpu, problem_of(shape), args_of(batch, reads));
        EXPECT_TRUE(test::identical(actual.sum.elements, expected.sum.elements));
        EXPECT_TRUE(test::agrees(actual.out.elements, expected.out.elements, bound(expected, batch)));
      }
    }
  }
}

// s = 3, 4 and 0, 0: the mean of squares is 12.5.
TEST(norm, the_reference_is_the_formula) {
  const float x[] = {1.0f, 3.0f, 0.0f, 0.0f}, added[] = {2.0f, 1.0f, 0.0f, 0.0f};
  const float weight[] = {2.0f, -1.0f};
  Args args;
  args.x = View<const float, 2>(x, {2, 2});
  args.added = View<const float, 2>(added, {2, 2});
  args.weight = {weight, {2}};
  const Problem problem{test::fp32_setting(), 2, 0.5f};
  const Result made = result(kReference, problem, args);
  EXPECT_EQ(made.sum.elements, (std::vector<float>{3.0f, 4.0f, 0.0f, 0.0f}));
  const float r = static_cast<float>(1.0 / std::sqrt(13.0));
  EXPECT_EQ(made.out.elements, (std::vector<float>{2.0f * (3.0f * r), -(4.0f * r), 0.0f, -0.0f}));
}

TEST(norm, squares_may_sum_beyond_fp32_where_their_mean_does_not) {
  Batch batch = make_batch({"", 1, 40}, Values::kConstant);
  for (float& x : batch.x.elements) x = 1.5e19f;  // the square is 0.66 of the largest fp32
  const Result expected = result(kReference, problem_of({"", 1, 40}), args_of(batch, Reads::kX));
  EXPECT_NEAR(expected.out.elements[7], batch.weight.elements[7], 1e-6);
  EXPECT_TRUE(test::agrees(result(kCpu, problem_of({"", 1, 40}), args_of(batch, Reads::kX)).out.elements,
                           expected.out.elements, bound(expected, batch)));
}

TEST(norm, what_replaces_the_sum_is_normed_and_passed_on) {
  const Batch batch = make_batch({"", 2, 20}, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Args alone;
    alone.x = batch.replaced.view;
    alone.weight = batch.weight.view;
    const Problem problem = problem_of({"", 2, 20});
    const Result replaced = result(*row, problem, args_of(batch, Reads::kReplaced));
    EXPECT_TRUE(test::identical(replaced.sum.elements, batch.replaced.elements));
    EXPECT_TRUE(test::identical(replaced.out.elements, result(*row, problem, alone).out.elements));
  }
}

TEST(norm, writes_over_its_inputs_where_the_contract_allows_it) {
  const Case shape{"", 3, 35};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Batch batch = make_batch(shape, Values::kNormal);
    const Result expected = result(*row, problem_of(shape), args_of(batch, Reads::kXAndAdded));
    Args args = args_of(batch, Reads::kXAndAdded);
    args.out = batch.x.view;
    test::run(*row, problem_of(shape), args);
    EXPECT_TRUE(test::identical(batch.x.elements, expected.out.elements)) << "out over x, no sum";

    batch = make_batch(shape, Values::kNormal);
    args = args_of(batch, Reads::kXAndAdded);
    args.sum = batch.x.view;
    args.out = batch.added.view;
    test::run(*row, problem_of(shape), args);
    EXPECT_TRUE(test::identical(batch.x.elements, expected.sum.elements)) << "sum over x";
    EXPECT_TRUE(test::identical(batch.added.elements, expected.out.elements)) << "out over added";
  }
}

TEST(norm, gives_the_same_bits_for_any_batch_and_threads) {
  const Case shape{"", 7, 777};
  const Batch batch = make_batch(shape, Values::kNormal);
  const Args args = args_of(batch, Reads::kXAndAdded);
  const Result whole = result(kCpu, problem_of(shape), args);
  for (const Isa isa : test::machine_isas())
    for (const int threads : {2, 3})
      EXPECT_TRUE(test::identical(result(kCpu, problem_of(shape, isa), args, threads).out.elements,
                                  whole.out.elements));
  for (int64_t t = 0; t < shape.tokens; ++t) {
    Args one = args;
    one.x = batch.x.view.slice(0, t, 1);
    one.added = batch.added.view.slice(0, t, 1);
    EXPECT_TRUE(test::identical(result(kCpu, problem_of(shape), one).out.elements,
                                {&whole.out.view(t, 0), static_cast<size_t>(shape.width)}));
  }
}

TEST(norm, reads_rows_of_any_stride) {
  const Batch wide = make_batch({"", 3, 60}, Values::kNormal);
  Batch batch = make_batch({"", 3, 20}, Values::kNormal);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t i = 0; i < 20; ++i) batch.x.view(t, i) = wide.x.view(t, i + 30);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Args args = args_of(batch, Reads::kX);
    const Result expected = result(*row, problem_of({"", 3, 20}), args);
    args.x = wide.x.view.slice(1, 30, 20);
    EXPECT_TRUE(
        test::identical(result(*row, problem_of({"", 3, 20}), args).out.elements, expected.out.elements));
  }
}

TEST(norm, a_NaN_spoils_its_row_only) {
  Batch batch = make_batch({"", 3, 20}, Values::kNormal);
  batch.added.view(1, 19) = std::numeric_limits<float>::quiet_NaN();
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of({"", 3, 20}), args_of(batch, Reads::kXAndAdded));
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < 20; ++i) EXPECT_EQ(std::isnan(made.out.view(t, i)), t == 1);
  }
}

TEST(norm, the_two_step_root_differs_from_the_correct_one) {
  const Batch batch = make_batch({"", 200, 4}, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Problem problem = problem_of({"", 200, 4});
    const Result correct = result(*row, problem, args_of(batch, Reads::kX));
    problem.setting.numerics.rsqrt = Rsqrt::kTwoStep;
    EXPECT_NE(result(*row, problem, args_of(batch, Reads::kX)).out.elements, correct.out.elements);
    EXPECT_TRUE(test::agrees(result(*row, problem, args_of(batch, Reads::kX)).out.elements,
                             correct.out.elements, bound(correct, batch)));
  }
}

TEST(norm, names_the_tensor_that_breaks_the_contract) {
  const Batch batch = make_batch({"", 2, 8}, Values::kNormal);
  Random random(2);
  const Buffer<2> wrong = inputs::make(random, Values::kNormal, 2, 9);
  Buffer<2> out = inputs::make(random, Values::kNormal, 2, 8);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, Reads::kReplaced);
    args.sum = out.view;
    args.out = out.view;
    spoil(args);
    return test::message_of([&] { check(problem_of({"", 2, 8}), args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.x = wrong.view; }),
            "norm: x: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.added = wrong.view; }),
            "norm: added: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.replaced = wrong.view; }),
            "norm: replaced: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.weight = args.weight.slice(0, 0, 7); }),
            "norm: weight: expected shape [8], found [7]");
  EXPECT_EQ(message([&](Args& args) { args.sum = wrong.view; }),
            "norm: sum: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.out = out.view.slice(0, 0, 1); }),
            "norm: out: expected shape [2, 8], found [1, 8]");
  EXPECT_EQ(message([&](Args& args) {
              args.x = View<float, 2>(out.view.data, {2, 8}, {1, 2});
            }),
            "norm: x: expected contiguous rows, found a stride of 2 elements");
}

TEST(norm, refuses_numerics_that_it_does_not_do) {
  Problem problem = problem_of({"", 1, 1});
  problem.setting.numerics.norm_input = NormInput::kRounded;  // rounding to fp32 does nothing
  for (const Implementation* const row : {&kReference, &kCpu}) EXPECT_FALSE(row->supports(problem));
  problem.setting.numerics.activation = Activation::kBf16;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(test::refusal(*row, problem), "activation = bf16, takes fp32");
}

}  // namespace
}  // namespace fulgurite::norm
