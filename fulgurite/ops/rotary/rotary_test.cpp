#include "fulgurite/ops/rotary/rotary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/rotary/rotary_audit.h"
#include "fulgurite/ops/rotary/rotary_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::rotary {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr int64_t kPositions = 200;
constexpr Layout kLayouts[] = {Layout::kInterleaved, Layout::kHalfSplit};
constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

struct Batch {
  TensorBuffer<3> x;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};

Batch make_batch(const Case& shape, Values values, DType activation = DType::kF32) {
  Random random(1);
  return {inputs::make_tensor(random, values, activation, std::array{shape.tokens, shape.heads, shape.dim}),
          inputs::make_places(random, shape.tokens, 1, kPositions),
          inputs::make_table(kPositions, shape.dim)};
}

Problem problem_of(const Case& shape, Layout layout, DType activation = DType::kF32,
                   Isa isa = cpu::best_isa()) {
  return {test::setting_of(activation, isa), layout, shape.heads, shape.dim, kPositions};
}

Args args_of(const Batch& batch, const TensorBuffer<3>& x) {
  return {x.view, inputs::view_of(batch.places), batch.table.table()};
}

TensorBuffer<3> copy_of(const TensorBuffer<3>& x) {
  TensorBuffer<3> copy = inputs::unwritten<3>(x.view.dtype, x.view.extent);
  *copy.bytes = *x.bytes;
  return copy;
}

// The rotated elements of tokens [first, first + count); the batch stays as it is.
std::vector<float> result(const Implementation& implementation, const Problem& problem, const Batch& batch,
                          int threads = 1, int64_t first = 0, int64_t count = -1) {
  const TensorBuffer<3> x = copy_of(batch.x);
  if (count < 0) count = x.view.extent[0];
  Args args = args_of(batch, x);
  args.x = args.x.slice(0, first, count);
  args.places = args.places.slice(0, first, count);
  test::run(implementation, problem, args, threads);
  return x.values();
}

audit::OpReport judged(const Implementation& implementation, const Problem& problem, const Batch& batch) {
  const TensorBuffer<3> x = copy_of(batch.x);
  const test::ExactBytes workspace(implementation.workspace_bytes(problem, 1));
  return judge(implementation, problem, args_of(batch, x), {1, nullptr, workspace.bytes()});
}

TEST(rotary, makes_the_reference_s_roundings) {
  for (const Case& shape : kCases) {
    for (const Values values : inputs::kAllValues) {
      for (const DType activation : kActivations) {
        const Batch batch = make_batch(shape, values, activation);
        for (const Layout layout : kLayouts) {
          const Problem problem = problem_of(shape, layout, activation);
          EXPECT_TRUE(judged(kCpu, problem, batch).within())
              << fmt::format("{}, {}, {}, {}, seed 1", shape.what, inputs::name(values), name(activation),
                             layout == Layout::kInterleaved ? "interleaved" : "half-split");
          EXPECT_TRUE(test::identical(result(kCpu, problem, batch), result(kReference, problem, batch)));
        }
      }
    }
  }
}

// cos = 0, 1 and sin = 1, 0: the first pair turns by a right angle, the second not at all.
TEST(rotary, interleaved_pairs_are_neighbours_and_half_split_pairs_are_half_the_width_apart) {
  const float cosine[] = {0.0f, 1.0f}, sine[] = {1.0f, 0.0f};
  const TokenPlace places[] = {{0, 0}};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const DType activation : kActivations) {
      for (const Layout layout : kLayouts) {
        const TensorBuffer<3> x = inputs::unwritten<3>(activation, {1, 1, 4});
        for (int64_t i = 0; i < 4; ++i) store(x.view, static_cast<float>(i + 1), int64_t{0}, int64_t{0}, i);
        test::run(*row, Problem{test::setting_of(activation), layout, 1, 4, 1},
                  Args{x.view, {places, {1}}, {{cosine, {1, 2}}, {sine, {1, 2}}}});
        const std::vector<float> expected = layout == Layout::kInterleaved
                                                ? std::vector<float>{-2.0f, 1.0f, 3.0f, 4.0f}
                                                : std::vector<float>{-3.0f, 2.0f, 1.0f, 4.0f};
        EXPECT_EQ(x.values(), expected) << row->name;
      }
    }
  }
}

TEST(rotary, products_and_sum_are_rounded_separately) {
  const float c = 1.0f + 0x1p-12f, s = 1.0f;
  float x[] = {1.0f + 0x1p-12f, 1.0f};  // an fma would keep the 2^-24 of c * c
  rotate(Layout::kInterleaved, &c, &s, 2, x);
  EXPECT_EQ(x[0], 0x1p-11f);
}

// Were the products rounded to bf16, 1 * (1 + 2^-8) would be 1 in both.
TEST(rotary, bf16_is_rotated_in_fp32_and_rounded_once) {
  const float cosine[] = {1.0f + 0x1p-8f}, sine[] = {-0x1p-20f};
  const TokenPlace places[] = {{0, 0}};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const TensorBuffer<3> x = inputs::unwritten<3>(DType::kBF16, {1, 1, 2});
    store(x.view, 1.0f, int64_t{0}, int64_t{0}, int64_t{0});
    store(x.view, 1.0f, int64_t{0}, int64_t{0}, int64_t{1});
    test::run(*row, Problem{test::serving_setting(), Layout::kInterleaved, 1, 2, 1},
              Args{x.view, {places, {1}}, {{cosine, {1, 1}}, {sine, {1, 1}}}});
    // 1 + 2^-8 + 2^-20 lies above the tie of 1 and 1 + 2^-7, 1 + 2^-8 - 2^-20 below it.
    EXPECT_EQ(x.values(), (std::vector<float>{1.0f + 0x1p-7f, 1.0f})) << row->name;
  }
}

TEST(rotary, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 23, 64, 26};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    const std::vector<float> whole = result(kCpu, problem_of(shape, Layout::kHalfSplit, activation), batch);
    for (const Isa isa : test::machine_isas()) {
      const Problem problem = problem_of(shape, Layout::kHalfSplit, activation, isa);
      for (const int threads : {2, 3})
        EXPECT_TRUE(test::identical(result(kCpu, problem, batch, threads), whole));
      for (int64_t t = 0; t < shape.tokens; t += 5) {
        const std::vector<float> one = result(kCpu, problem, batch, 1, t, 1);
        const size_t row = static_cast<size_t>(shape.heads * shape.dim), at = static_cast<size_t>(t) * row;
        EXPECT_TRUE(test::identical({&one[at], row}, {&whole[at], row}));
      }
    }
  }
}

TEST(rotary, turns_a_slice_of_wider_heads_and_leaves_the_rest) {
  for (const DType activation : kActivations) {
    Batch batch = make_batch({"", 4, 3, 24}, Values::kNormal, activation);
    batch.table = inputs::make_table(kPositions, 8);
    const Problem problem{test::setting_of(activation), Layout::kInterleaved, 3, 8, kPositions};
    const std::vector<float> before = batch.x.values();
    std::vector<float> both[2];
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const TensorBuffer<3> x = copy_of(batch.x);
      Args args = args_of(batch, x);
      args.x = x.view.slice(2, 16, 8);
      test::run(*row, problem, args);
      std::vector<float>& elements = both[row == &kCpu ? 1 : 0] = x.values();
      for (size_t i = 0; i < elements.size(); ++i) {
        if (i % 24 < 16) {
          EXPECT_EQ(elements[i], before[i]) << i;
        }
      }
    }
    EXPECT_TRUE(test::identical(both[0], both[1]));
    EXPECT_NE(both[0], before);
  }
}

TEST(rotary, a_NaN_spoils_its_pair_only) {
  const Case shape{"", 2, 2, 8};
  for (const DType activation : kActivations) {
    const Batch batch = make_batch(shape, Values::kNormal, activation);
    store(batch.x.view, std::numeric_limits<float>::quiet_NaN(), int64_t{1}, int64_t{0}, int64_t{2});
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const std::vector<float> x = result(*row, problem_of(shape, Layout::kHalfSplit, activation), batch);
      for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(std::isnan(x[i]), i == 16 + 2 || i == 16 + 6) << i;
    }
  }
}

TEST(rotary, the_audit_sees_a_rotation_that_is_not_the_reference_s) {
  const Batch batch = make_batch({"", 3, 2, 8}, Values::kNormal);
  Implementation wrong = kReference;
  wrong.run = [](const Problem& problem, const Args& args, const Lane& lane) {
    Problem other = problem;
    other.layout = Layout::kInterleaved;
    kReference.run(other, args, lane);
  };
  EXPECT_FALSE(judged(wrong, problem_of({"", 3, 2, 8}, Layout::kHalfSplit), batch).within());
  EXPECT_TRUE(judged(wrong, problem_of({"", 3, 2, 8}, Layout::kInterleaved), batch).within());
}

TEST(rotary, names_what_breaks_the_contract) {
  const Case shape{"", 2, 3, 8};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape, Layout::kInterleaved);
  const auto message = [&](const auto& spoil) {
    Args args = args_of(batch, batch.x);
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.x = batch.x.view.slice(1, 0, 2); }),
            "rotary: x: expected shape [2, 3, 8], found [2, 2, 8]");
  EXPECT_EQ(message([](Args& args) { args.places = args.places.slice(0, 0, 1); }),
            "rotary: places: expected shape [2], found [1]");
  EXPECT_EQ(message([](Args& args) { args.table.cosine = args.table.cosine.slice(0, 0, 9); }),
            "rotary: cosine: expected shape [200, 4], found [9, 4]");
  EXPECT_EQ(message([](Args& args) { args.table.sine = args.table.sine.slice(1, 0, 3); }),
            "rotary: sine: expected shape [200, 4], found [200, 3]");
  batch.places[1].position = kPositions;
  EXPECT_EQ(message([](Args&) {}), "rotary: position: expected a value in [0, 199], found 200");
  batch.places[1].position = -1;
  EXPECT_EQ(message([](Args&) {}), "rotary: position: expected a value in [0, 199], found -1");
}

}  // namespace
}  // namespace fulgurite::rotary
