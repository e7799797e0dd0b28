#include "fulgurite/ops/query_prepare/query_prepare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/query_prepare/query_prepare_audit.h"
#include "fulgurite/ops/query_prepare/query_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::query_prepare {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};
constexpr int64_t kPositions = 300;

Problem problem_of(const Case& shape, DType activation = DType::kF32, Isa isa = cpu::best_isa()) {
  return {test::setting_of(activation, isa), shape.heads, shape.head_dim, shape.rope, 1e-6f};
}

struct Batch {
  TensorBuffer<3> q;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
  Batch clone() const {
    Batch copy = *this;
    copy.q.bytes = std::make_shared<std::vector<std::byte>>(*q.bytes);
    copy.q.view.data = copy.q.bytes->data();
    return copy;
  }
};
Batch make_batch(const Case& shape, Values values, DType activation = DType::kF32) {
  Random random(1);
  return {
      inputs::make_tensor(random, values, activation, std::array{shape.tokens, shape.heads, shape.head_dim}),
      inputs::make_places(random, shape.tokens, 1, kPositions), inputs::make_table(kPositions, shape.rope)};
}
Args args_of(const Batch& batch) {
  return {batch.q.view, inputs::view_of(batch.places), batch.table.table(), {}};
}

std::vector<float> result(const Implementation& row, const Problem& problem, const Batch& batch,
                          int threads = 1) {
  const Batch own = batch.clone();
  test::run(row, problem, args_of(own), threads);
  return own.q.values();
}

audit::OpReport judged(const Implementation& row, const Problem& problem, const Batch& batch) {
  const Batch own = batch.clone();
  const TensorBuffer<3> normed = inputs::unwritten<3>(DType::kF32, own.q.view.extent);
  Args args = args_of(own);
  args.normed = normed.view.as<float>();
  const test::ExactBytes workspace(row.workspace_bytes(problem, 1));
  return judge(row, problem, args, {1, nullptr, workspace.bytes()});
}

TEST(query_prepare, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const DType activation : kActivations) {
      for (const Values values : inputs::kAllValues) {
        const audit::OpReport report =
            judged(kCpu, problem_of(shape, activation), make_batch(shape, values, activation));
        EXPECT_TRUE(report.within()) << fmt::format("{}, {}, {}, seed 1: {}", shape.what, name(activation),
                                                    inputs::name(values), audit::describe(report));
      }
    }
  }
}

// 3 4 | 5 6: the mean of squares is 21.5; the table turns the last pair by a right angle.
TEST(query_prepare, norms_a_head_without_weight_and_turns_its_last_part) {
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const DType activation : kActivations) {
      Batch batch = make_batch({"", 1, 1, 4, 2}, Values::kNormal, activation);
      for (int64_t i = 0; i < 4; ++i)
        store(batch.q.view, 3.0f + static_cast<float>(i), int64_t{0}, int64_t{0}, i);
      batch.places = {{0, 7}};
      batch.table.cosine.view(7, 0) = 0.0f;
      batch.table.sine.view(7, 0) = 1.0f;
      Problem problem = problem_of({"", 1, 1, 4, 2}, activation);
      problem.eps = 0.5f;
      const float r = static_cast<float>(1.0 / std::sqrt(22.0));
      const auto rounded = [&](float value) { return round_to(activation, value); };
      const TensorBuffer<3> normed = inputs::unwritten<3>(DType::kF32, {1, 1, 4});
      Args args = args_of(batch);
      args.normed = normed.view.as<float>();
      test::run(*row, problem, args);
      EXPECT_EQ(normed.values(),
                (std::vector<float>{rounded(3 * r), rounded(4 * r), rounded(5 * r), rounded(6 * r)}));
      EXPECT_EQ(batch.q.values(),
                (std::vector<float>{rounded(3 * r), rounded(4 * r), -rounded(6 * r), rounded(5 * r)}));
    }
  }
}

// Rotating unrounded values, or rounding once in all, gives other bits.
TEST(query_prepare, rounds_between_norm_and_rotation) {
  const Case shape{"", 20, 4, 64, 64};
  const Batch batch = make_batch(shape, Values::kNormal, DType::kBF16);
  Batch wide = make_batch(shape, Values::kNormal);
  for (int64_t t = 0; t < 20; ++t)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t i = 0; i < 64; ++i) store(wide.q.view, load(batch.q.view, t, h, i), t, h, i);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    std::vector<float> once = result(*row, problem_of(shape), wide);
    for (float& value : once) value = round_to_bf16(value);
    EXPECT_NE(result(*row, problem_of(shape, DType::kBF16), batch), once);
  }
}

TEST(query_prepare, the_trace_changes_nothing) {
  const Case shape{"", 3, 2, 70, 20};
  for (const DType activation : kActivations) {
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const Batch batch = make_batch(shape, Values::kNormal, activation), traced = batch.clone();
      const TensorBuffer<3> normed = inputs::unwritten<3>(DType::kF32, traced.q.view.extent);
      Args args = args_of(traced);
      args.normed = normed.view.as<float>();
      test::run(*row, problem_of(shape, activation), args);
      EXPECT_TRUE(test::identical(traced.q.values(), result(*row, problem_of(shape, activation), batch)));
    }
  }
}

TEST(query_prepare, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 13, 5, 515, 64};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    const std::vector<float> whole = result(kCpu, problem_of(shape, activation), batch);
    for (const Isa isa : test::machine_isas())
      for (const int threads : {2, 3})
        EXPECT_TRUE(test::identical(result(kCpu, problem_of(shape, activation, isa), batch, threads), whole));
    const Batch one_by_one = batch.clone();
    for (int64_t t = 0; t < shape.tokens; ++t) {
      Args args = args_of(one_by_one);
      args.q = args.q.slice(0, t, 1);
      args.places = args.places.slice(0, t, 1);
      test::run(kCpu, problem_of(shape, activation), args);
    }
    EXPECT_TRUE(test::identical(one_by_one.q.values(), whole));
  }
}

TEST(query_prepare, takes_heads_of_any_stride_and_leaves_what_is_between) {
  for (const DType activation : kActivations) {
    const Case shape{"", 3, 2, 20, 8};
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const TensorBuffer<3> wide = inputs::unwritten<3>(activation, {3, 4, 31});
      const std::vector<float> before = wide.values();
      Args args = args_of(batch);
      args.q = wide.view.slice(1, 1, 2).slice(2, 7, 20);
      for (int64_t at = 0; at < 3 * 2 * 20; ++at)
        store(args.q, load(batch.q.view, at / 40, at / 20 % 2, at % 20), at / 40, at / 20 % 2, at % 20);
      test::run(*row, problem_of(shape, activation), args);
      const std::vector<float> expected = result(*row, problem_of(shape, activation), batch);
      size_t at = 0;
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t h = 0; h < 4; ++h)
          for (int64_t i = 0; i < 31; ++i) {
            const bool inside = h >= 1 && h < 3 && i >= 7 && i < 27;
            EXPECT_EQ(load(wide.view, t, h, i), inside ? expected[at++] : before[0]);
          }
    }
  }
}

TEST(query_prepare, a_NaN_spoils_its_head_and_an_infinity_itself_alone) {
  const Case shape{"", 2, 3, 40, 8};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    store(batch.q.view, std::numeric_limits<float>::quiet_NaN(), int64_t{1}, int64_t{0}, int64_t{39});
    store(batch.q.view, std::numeric_limits<float>::infinity(), int64_t{1}, int64_t{1}, int64_t{5});
    for (const Implementation* const row : {&kReference, &kCpu}) {
      EXPECT_TRUE(judged(*row, problem_of(shape, activation), batch).within());
      const std::vector<float> out = result(*row, problem_of(shape, activation), batch);
      for (size_t i = 0; i < out.size(); ++i)
        EXPECT_EQ(std::isnan(out[i]), i / 40 == 3 || i == 4 * 40 + 5) << i;
      EXPECT_EQ(out[4 * 40], 0.0f);
    }
  }
}

TEST(query_prepare, the_audit_sees_a_step_too_much_before_and_after_the_rotation) {
  const Case shape{"", 2, 2, 20, 4};
  for (const DType activation : kActivations) {
    Implementation wrong = kReference;
    wrong.run = [](const Problem& p, const Args& args, const Lane& lane) {
      kReference.run(p, args, lane);
      const float step = args.q.dtype == DType::kF32 ? 1.0f + 0x1p-20f : 0x1.02p0f;
      args.normed(0, 1, 3) *= step;
      store(args.q, load(args.q, int64_t{1}, int64_t{0}, int64_t{18}) * step, int64_t{1}, int64_t{0},
            int64_t{18});
    };
    const audit::OpReport report =
        judged(wrong, problem_of(shape, activation), make_batch(shape, Values::kNormal, activation));
    ASSERT_EQ(report.outputs.size(), 2u);
    EXPECT_EQ(report.outputs[0].difference.worst, 23);
    EXPECT_EQ(report.outputs[1].difference.worst, 58);
    EXPECT_EQ(report.outputs[0].difference.beyond + report.outputs[1].difference.beyond, 2);
  }
}

TEST(query_prepare, names_what_breaks_the_contract) {
  const Case shape{"", 2, 3, 8, 4};
  Batch batch = make_batch(shape, Values::kNormal);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch);
    spoil(args);
    return test::message_of([&] { check(problem_of(shape), args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([](Args& args) { args.q = args.q.slice(1, 0, 2); }),
            "query_prepare: q: expected shape [2, 3, 8], found [2, 2, 8]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "query_prepare: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.table.cosine = args.table.cosine.slice(1, 0, 1); }),
            "query_prepare: cosine: expected shape [300, 2], found [300, 1]");
  EXPECT_EQ(message([](Args& args) { args.table.sine = args.table.sine.slice(0, 0, 1); }),
            "query_prepare: sine: expected shape [300, 2], found [1, 2]");
  const inputs::Buffer<3> wrong = [] {
    Random random(1);
    return inputs::make(random, Values::kNormal, 2, 3, 7);
  }();
  EXPECT_EQ(message([&](Args& args) { args.normed = wrong.view; }),
            "query_prepare: normed: expected shape [2, 3, 8], found [2, 3, 7]");
  batch.places[1].position = 300;
  EXPECT_EQ(message([](Args&) {}), "query_prepare: position: expected a value in [0, 299], found 300");
}

TEST(query_prepare, refuses_numerics_that_it_does_not_do) {
  Problem problem = problem_of({"", 1, 1, 2, 2});
  problem.setting.numerics.rsqrt = Rsqrt::kCuda;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(test::refusal(*row, problem),
              "rsqrt = cuda, takes correct or two_step or x86_12 or x86_14 or error");
}

}  // namespace
}  // namespace fulgurite::query_prepare
