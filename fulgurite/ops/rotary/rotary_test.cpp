#include "fulgurite/ops/rotary/rotary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/rotary/rotary_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::rotary {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr int64_t kPositions = 200;
constexpr Layout kLayouts[] = {Layout::kInterleaved, Layout::kHalfSplit};

struct Batch {
  Buffer<3> x;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};

Batch make_batch(const Case& shape, Values values) {
  Random random(1);
  return {inputs::make(random, values, shape.tokens, shape.heads, shape.dim),
          inputs::make_places(random, shape.tokens, 1, kPositions),
          inputs::make_table(kPositions, shape.dim)};
}

Problem problem_of(const Case& shape, Layout layout, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), layout, shape.heads, shape.dim, kPositions};
}

// The rotated elements of tokens [first, first + count); the batch stays as it is.
std::vector<float> result(const Implementation& implementation, const Problem& problem, const Batch& batch,
                          int threads = 1, int64_t first = 0, int64_t count = -1) {
  std::vector<float> elements = batch.x.elements;
  const View<float, 3> x{elements.data(), batch.x.view.extent};
  if (count < 0) count = x.extent[0];
  test::run(implementation, problem,
            Args{x.slice(0, first, count), inputs::view_of(batch.places).slice(0, first, count),
                 batch.table.table()},
            threads);
  return elements;
}

TEST(rotary, makes_the_reference_s_roundings) {
  for (const Case& shape : kCases) {
    for (const Values values : inputs::kAllValues) {
      const Batch batch = make_batch(shape, values);
      for (const Layout layout : kLayouts) {
        SCOPED_TRACE(fmt::format("{}, {}, {}, seed 1", shape.what, inputs::name(values),
                                 layout == Layout::kInterleaved ? "interleaved" : "half-split"));
        const Problem problem = problem_of(shape, layout);
        EXPECT_TRUE(test::identical(result(kCpu, problem, batch), result(kReference, problem, batch)));
      }
    }
  }
}

// cos = 0, 1 and sin = 1, 0: the first pair turns by a right angle, the second not at all.
TEST(rotary, interleaved_pairs_are_neighbours_and_half_split_pairs_are_half_the_width_apart) {
  const float cosine[] = {0.0f, 1.0f}, sine[] = {1.0f, 0.0f};
  const TokenPlace places[] = {{0, 0}};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const Layout layout : kLayouts) {
      float x[] = {1.0f, 2.0f, 3.0f, 4.0f};
      test::run(*row, Problem{test::fp32_setting(), layout, 1, 4, 1},
                Args{View<float, 3>(x, {1, 1, 4}), {places, {1}}, {{cosine, {1, 2}}, {sine, {1, 2}}}});
      const std::vector<float> expected = layout == Layout::kInterleaved
                                              ? std::vector<float>{-2.0f, 1.0f, 3.0f, 4.0f}
                                              : std::vector<float>{-3.0f, 2.0f, 1.0f, 4.0f};
      EXPECT_EQ(std::vector<float>(x, x + 4), expected) << row->name;
    }
  }
}

TEST(rotary, products_and_sum_are_rounded_separately) {
  const float c = 1.0f + 0x1p-12f, s = 1.0f;
  float x[] = {1.0f + 0x1p-12f, 1.0f};  // an fma would keep the 2^-24 of c * c
  rotate(Layout::kInterleaved, &c, &s, 2, x);
  EXPECT_EQ(x[0], 0x1p-11f);
}

TEST(rotary, gives_the_same_bits_for_any_batch_and_threads) {
  const Case shape{"", 7, 5, 26};
  const Batch batch = make_batch(shape, Values::kNormal);
  const std::vector<float> whole = result(kCpu, problem_of(shape, Layout::kHalfSplit), batch);
  for (const Isa isa : test::machine_isas()) {
    const Problem problem = problem_of(shape, Layout::kHalfSplit, isa);
    for (const int threads : {2, 3})
      EXPECT_TRUE(test::identical(result(kCpu, problem, batch, threads), whole));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const std::vector<float> one = result(kCpu, problem, batch, 1, t, 1);
      const size_t row = static_cast<size_t>(shape.heads * shape.dim), at = static_cast<size_t>(t) * row;
      EXPECT_TRUE(test::identical({&one[at], row}, {&whole[at], row}));
    }
  }
}

TEST(rotary, turns_a_slice_of_wider_heads_and_leaves_the_rest) {
  Batch batch = make_batch({"", 4, 3, 24}, Values::kNormal);
  batch.table = inputs::make_table(kPositions, 8);
  const Problem problem{test::fp32_setting(), Layout::kInterleaved, 3, 8, kPositions};
  const std::vector<float> before = batch.x.elements;
  std::vector<float> both[2];
  for (const Implementation* const row : {&kReference, &kCpu}) {
    std::vector<float>& elements = both[row == &kCpu ? 1 : 0] = before;
    const View<float, 3> x{elements.data(), {4, 3, 24}};
    test::run(*row, problem, Args{x.slice(2, 16, 8), inputs::view_of(batch.places), batch.table.table()});
    for (size_t i = 0; i < elements.size(); ++i) {
      if (i % 24 < 16) {
        EXPECT_EQ(elements[i], before[i]) << i;
      }
    }
  }
  EXPECT_TRUE(test::identical(both[0], both[1]));
  EXPECT_NE(both[0], before);
}

TEST(rotary, a_NaN_spoils_its_pair_only) {
  const Case shape{"", 2, 2, 8};
  Batch batch = make_batch(shape, Values::kNormal);
  batch.x.view(1, 0, 2) = std::numeric_limits<float>::quiet_NaN();
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const std::vector<float> x = result(*row, problem_of(shape, Layout::kHalfSplit), batch);
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(std::isnan(x[i]), i == 16 + 2 || i == 16 + 6) << i;
  }
}

TEST(rotary, names_what_breaks_the_contract) {
  const Case shape{"", 2, 3, 8};
  Batch batch = make_batch(shape, Values::kNormal);
  const Problem problem = problem_of(shape, Layout::kInterleaved);
  const auto message = [&](const auto& spoil) {
    Args args{batch.x.view, inputs::view_of(batch.places), batch.table.table()};
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

TEST(rotary, refuses_numerics_that_it_does_not_do) {
  Problem problem = problem_of({"", 1, 1, 2}, Layout::kInterleaved);
  problem.setting.numerics.activation = Activation::kFp16;
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(test::refusal(*row, problem), "activation = fp16, takes fp32");
}

}  // namespace
}  // namespace fulgurite::rotary
