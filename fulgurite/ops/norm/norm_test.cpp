#include "fulgurite/ops/norm/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/norm/norm_audit.h"
#include "fulgurite/ops/norm/norm_cases.h"
#include "test/op_test.h"

namespace fulgurite::norm {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

Problem problem_of(const Case& shape, DType activation = DType::kF32, Isa isa = cpu::best_isa()) {
  return {test::setting_of(activation, isa), shape.width, 1e-6f};
}

// Everything that the operation may be given; a test leaves out what it does without.
struct Batch {
  TensorBuffer<2> x, added, replaced;
  TensorBuffer<1> weight;
};
Batch make_batch(const Case& shape, Values values, DType activation = DType::kF32) {
  Random random(1);
  const auto rows = [&](DType dtype) {
    return inputs::make_tensor(random, values, dtype, std::array{shape.tokens, shape.width});
  };
  return {rows(activation), rows(activation), rows(DType::kF32),
          inputs::make_tensor(random, Values::kNormal, DType::kF32, std::array{shape.width})};
}

enum class Reads { kX, kXAndAdded, kReplaced };
constexpr Reads kAllReads[] = {Reads::kX, Reads::kXAndAdded, Reads::kReplaced};

Args args_of(const Batch& batch, Reads reads) {
  Args args;
  args.x = batch.x.view;
  if (reads != Reads::kX) args.added = batch.added.view;
  if (reads == Reads::kReplaced) args.replaced = batch.replaced.view.as<float>();
  args.weight = batch.weight.view.as<float>();
  return args;
}

struct Result {
  TensorBuffer<2> sum, out;
};
Result make_result(Args& args) {
  Result made{inputs::unwritten<2>(args.x.dtype, args.x.extent),
              inputs::unwritten<2>(args.x.dtype, args.x.extent)};
  args.sum = made.sum.view;
  args.out = made.out.view;
  return made;
}

Result result(const Implementation& implementation, const Problem& problem, Args args, int threads = 1) {
  const Result made = make_result(args);
  test::run(implementation, problem, args, threads);
  return made;
}

audit::OpReport judged(const Implementation& implementation, const Problem& problem, Args args) {
  const Result made = make_result(args);
  const test::ExactBytes workspace(implementation.workspace_bytes(problem, 1));
  return judge(implementation, problem, args, {1, nullptr, workspace.bytes()});
}

TEST(norm, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const DType activation : kActivations) {
      for (const Values values : inputs::kAllValues) {
        const Batch batch = make_batch(shape, values, activation);
        for (const Reads reads : kAllReads) {
          const audit::OpReport report = judged(kCpu, problem_of(shape, activation), args_of(batch, reads));
          EXPECT_TRUE(report.within())
              << fmt::format("{}, {}, {}, reads {}, seed 1: {}", shape.what, name(activation),
                             inputs::name(values), static_cast<int>(reads), audit::describe(report));
        }
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
  EXPECT_EQ(made.sum.values(), (std::vector<float>{3.0f, 4.0f, 0.0f, 0.0f}));
  const float r = static_cast<float>(1.0 / std::sqrt(13.0));
  EXPECT_EQ(made.out.values(), (std::vector<float>{2.0f * (3.0f * r), -(4.0f * r), 0.0f, -0.0f}));
}

// 256 + 1 = 257 is a tie in bf16, whose step is 2 there: the stream keeps 256.
TEST(norm, the_norm_reads_the_sum_unrounded_unless_the_knob_rounds_it) {
  const TensorBuffer<2> x = inputs::unwritten<2>(DType::kBF16, {1, 2});
  const TensorBuffer<2> added = inputs::unwritten<2>(DType::kBF16, {1, 2});
  for (const int64_t i : {0, 1}) {
    store(x.view, i == 0 ? 256.0f : 128.0f, int64_t{0}, i);
    store(added.view, i == 0 ? 1.0f : 0.0f, int64_t{0}, i);
  }
  const float weight[] = {1.0f, 997.0f};
  Args args;
  args.x = x.view;
  args.added = added.view;
  args.weight = {weight, {2}};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const NormInput knob : {NormInput::kUnrounded, NormInput::kRounded}) {
      Problem problem{test::serving_setting(), 2, 0.0f};
      problem.setting.numerics.norm_input = knob;
      const float s = knob == NormInput::kUnrounded ? 257.0f : 256.0f;
      const float r = static_cast<float>(1.0 / std::sqrt(static_cast<double>((s * s + 128.0f * 128.0f) / 2)));
      const Result made = result(*row, problem, args);
      EXPECT_EQ(made.sum.values(), (std::vector<float>{256.0f, 128.0f}));
      EXPECT_EQ(made.out.values(),
                (std::vector<float>{round_to_bf16(s * r), round_to_bf16(997.0f * (128.0f * r))}));
    }
  }
}

TEST(norm, the_knobs_that_change_the_result_do) {
  const Batch batch = make_batch({"", 200, 4}, Values::kNormal, DType::kBF16);
  const Args args = args_of(batch, Reads::kXAndAdded);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const auto out = [&](const auto& choose) {
      Problem problem = problem_of({"", 200, 4}, DType::kBF16);
      choose(problem.setting.numerics);
      EXPECT_TRUE(judged(*row, problem, args).within());
      return result(*row, problem, args).out.values();
    };
    const std::vector<float> plain = out([](Numerics&) {});
    EXPECT_NE(out([](Numerics& n) { n.norm_input = NormInput::kRounded; }), plain);
    EXPECT_NE(out([](Numerics& n) { n.rsqrt = Rsqrt::kX86_12; }), plain);
    EXPECT_NE(out([](Numerics& n) {
                n.rsqrt = Rsqrt::kError;
                n.rsqrt_error = 1e-3f;
              }),
              plain);
  }
}

// In bf16 it is seldom seen.
TEST(norm, the_two_step_root_differs_from_the_correct_one) {
  const Batch batch = make_batch({"", 200, 4}, Values::kNormal);
  Problem problem = problem_of({"", 200, 4});
  problem.setting.numerics.rsqrt = Rsqrt::kTwoStep;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_NE(result(*row, problem, args_of(batch, Reads::kX)).out.values(),
              result(*row, problem_of({"", 200, 4}), args_of(batch, Reads::kX)).out.values());
}

TEST(norm, squares_may_sum_beyond_fp32_where_their_mean_does_not) {
  Batch batch = make_batch({"", 1, 40}, Values::kConstant);
  for (int64_t i = 0; i < 40; ++i)
    store(batch.x.view, 1.5e19f, int64_t{0}, i);  // squared: 0.66 of the largest
  const Args args = args_of(batch, Reads::kX);
  EXPECT_NEAR(result(kReference, problem_of({"", 1, 40}), args).out.values()[7], args.weight(7), 1e-6);
  EXPECT_TRUE(judged(kCpu, problem_of({"", 1, 40}), args).within());
}

TEST(norm, huge_and_infinite_values_are_as_in_the_reference) {
  for (const DType activation : kActivations) {
    Batch batch = make_batch({"", 3, 40}, Values::kNormal, activation);
    store(batch.x.view, 3e38f, int64_t{0}, int64_t{3});  // the sum is infinite
    store(batch.added.view, 3e38f, int64_t{0}, int64_t{3});
    store(batch.x.view, -std::numeric_limits<float>::infinity(), int64_t{1}, int64_t{39});
    const Problem problem = problem_of({"", 3, 40}, activation);
    EXPECT_TRUE(judged(kCpu, problem, args_of(batch, Reads::kXAndAdded)).within());
    const std::vector<float> out = result(kCpu, problem, args_of(batch, Reads::kXAndAdded)).out.values();
    EXPECT_TRUE(std::isnan(out[3]) && std::isnan(out[40 + 39]));  // infinity * 0
    EXPECT_EQ(out[4], 0.0f);
    EXPECT_NE(out[80 + 4], 0.0f);
  }
}

TEST(norm, the_audit_sees_a_wrong_sum_and_a_step_too_much) {
  for (const DType activation : kActivations) {
    const Batch batch = make_batch({"", 2, 20}, Values::kNormal, activation);
    Implementation wrong = kReference;
    wrong.run = [](const Problem& p, const Args& args, const Lane& lane) {
      kReference.run(p, args, lane);
      const float step = args.out.dtype == DType::kF32 ? 1.0f + 0x1p-20f : 0x1.02p0f;
      store(args.sum, load(args.sum, int64_t{1}, int64_t{2}) * step, int64_t{1}, int64_t{2});
      store(args.out, load(args.out, int64_t{0}, int64_t{5}) * step, int64_t{0}, int64_t{5});
    };
    const audit::OpReport report =
        judged(wrong, problem_of({"", 2, 20}, activation), args_of(batch, Reads::kXAndAdded));
    EXPECT_EQ(report.outputs[0].difference.worst, 22);
    EXPECT_EQ(report.outputs[1].difference.worst, 5);
    EXPECT_EQ(report.outputs[0].difference.beyond + report.outputs[1].difference.beyond, 2);
  }
}

TEST(norm, what_replaces_the_sum_is_normed_and_passed_on) {
  const Batch batch = make_batch({"", 2, 20}, Values::kNormal);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Args alone;
    alone.x = batch.replaced.view;
    alone.weight = batch.weight.view.as<float>();
    const Problem problem = problem_of({"", 2, 20});
    const Result replaced = result(*row, problem, args_of(batch, Reads::kReplaced));
    EXPECT_TRUE(test::identical(replaced.sum.values(), batch.replaced.values()));
    EXPECT_TRUE(test::identical(replaced.out.values(), result(*row, problem, alone).out.values()));
  }
}

TEST(norm, writes_over_its_inputs_where_the_contract_allows_it) {
  const Case shape{"", 3, 1035};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const DType activation : kActivations) {
      const Problem problem = problem_of(shape, activation);
      Batch batch = make_batch(shape, Values::kNormal, activation);
      const Result expected = result(*row, problem, args_of(batch, Reads::kXAndAdded));
      Args args = args_of(batch, Reads::kXAndAdded);
      args.out = batch.x.view;
      test::run(*row, problem, args);
      EXPECT_TRUE(test::identical(batch.x.values(), expected.out.values())) << "out over x, no sum";

      batch = make_batch(shape, Values::kNormal, activation);
      args = args_of(batch, Reads::kXAndAdded);
      args.sum = batch.x.view;
      args.out = batch.added.view;
      test::run(*row, problem, args);
      EXPECT_TRUE(test::identical(batch.x.values(), expected.sum.values())) << "sum over x";
      EXPECT_TRUE(test::identical(batch.added.values(), expected.out.values())) << "out over added";
    }
  }
}

TEST(norm, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 31, 1777};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    const Args args = args_of(batch, Reads::kXAndAdded);
    const std::vector<float> whole = result(kCpu, problem_of(shape, activation), args).out.values();
    for (const Isa isa : test::machine_isas())
      for (const int threads : {2, 3})
        EXPECT_TRUE(test::identical(
            result(kCpu, problem_of(shape, activation, isa), args, threads).out.values(), whole));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Args one = args;
      one.x = batch.x.view.slice(0, t, 1);
      one.added = batch.added.view.slice(0, t, 1);
      const auto width = static_cast<size_t>(shape.width);
      EXPECT_TRUE(test::identical(result(kCpu, problem_of(shape, activation), one).out.values(),
                                  {&whole[static_cast<size_t>(t) * width], width}));
    }
  }
}

TEST(norm, reads_rows_of_any_stride) {
  for (const DType activation : kActivations) {
    const Batch wide = make_batch({"", 3, 61}, Values::kNormal, activation);
    Batch batch = make_batch({"", 3, 20}, Values::kNormal, activation);
    for (int64_t t = 0; t < 3; ++t)
      for (int64_t i = 0; i < 20; ++i) store(batch.x.view, load(wide.x.view, t, i + 31), t, i);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const Problem problem = problem_of({"", 3, 20}, activation);
      Args args = args_of(batch, Reads::kX);
      const Result expected = result(*row, problem, args);
      args.x = wide.x.view.slice(1, 31, 20);
      EXPECT_TRUE(test::identical(result(*row, problem, args).out.values(), expected.out.values()));
    }
  }
}

TEST(norm, a_NaN_spoils_its_row_only) {
  for (const DType activation : kActivations) {
    const Batch batch = make_batch({"", 3, 20}, Values::kNormal, activation);
    store(batch.added.view, kNaN, int64_t{1}, int64_t{19});
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const std::vector<float> out =
          result(*row, problem_of({"", 3, 20}, activation), args_of(batch, Reads::kXAndAdded)).out.values();
      for (size_t i = 0; i < 60; ++i) EXPECT_EQ(std::isnan(out[i]), i / 20 == 1);
    }
  }
}

TEST(norm, names_the_tensor_that_breaks_the_contract) {
  const Batch batch = make_batch({"", 2, 8}, Values::kNormal);
  const TensorBuffer<2> wrong = inputs::unwritten<2>(DType::kF32, {2, 9});
  const TensorBuffer<2> out = inputs::unwritten<2>(DType::kF32, {2, 8});
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
  EXPECT_EQ(message([&](Args& args) { args.replaced = wrong.view.as<float>(); }),
            "norm: replaced: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.weight = args.weight.slice(0, 0, 7); }),
            "norm: weight: expected shape [8], found [7]");
  EXPECT_EQ(message([&](Args& args) { args.sum = wrong.view; }),
            "norm: sum: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(message([&](Args& args) { args.out = out.view.slice(0, 0, 1); }),
            "norm: out: expected shape [2, 8], found [1, 8]");
  EXPECT_EQ(message([&](Args& args) {
              args.x = View<float, 2>(out.view.as<float>().data, {2, 8}, {1, 2});
            }),
            "norm: x: expected contiguous rows, found a stride of 2 elements");
}

TEST(norm, refuses_numerics_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const auto& choose) {
    Problem problem = problem_of({"", 1, 1});
    choose(problem.setting);
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(refusal(*row, [](Setting& s) { s.numerics.norm_input = NormInput::kRounded; }), "");
    EXPECT_EQ(refusal(*row, [](Setting& s) { s.numerics.rsqrt = Rsqrt::kCuda; }),
              "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
    EXPECT_EQ(refusal(*row,
                      [](Setting& s) {
                        s.numerics.rsqrt = Rsqrt::kX86_14;
                        s.target.isa = Isa::kAvx2;
                      }),
              "rsqrt = x86_14, needs avx512, the device has avx2");
  }
}

}  // namespace
}  // namespace fulgurite::norm
