#include "fulgurite/ops/indexer_projection/indexer_projection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/indexer_projection/indexer_projection_cases.h"
#include "test/op_test.h"

namespace fulgurite::indexer_projection {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBlocks{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};

struct Batch {
  Buffer<2> x;
  inputs::Weight wk, gate_weight;
};

Batch make_batch(const Case& shape, const MatrixFormat& wk, const MatrixFormat& gate_weight,
                 Values values = Values::kNormal) {
  Random random(1);
  return {inputs::make(random, values, shape.tokens, shape.hidden),
          inputs::make_weight(random, shape.head_dim, shape.hidden, wk),
          inputs::make_weight(random, shape.heads, shape.hidden, gate_weight)};
}

Problem problem_of(const Case& shape, const Batch& batch, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa),
          shape.hidden,
          shape.head_dim,
          shape.heads,
          format_of(batch.wk.matrix),
          format_of(batch.gate_weight.matrix)};
}

struct Result {
  Buffer<2> k, gate;
};

Result result(const Implementation& implementation, const Problem& problem, const Batch& batch,
              View<const float, 2> x, int threads = 1) {
  Random unused(0);
  Result made{inputs::make(unused, Values::kConstant, x.extent[0], problem.head_dim),
              inputs::make(unused, Values::kConstant, x.extent[0], problem.heads)};
  test::run(implementation, problem,
            Args{x, &batch.wk.matrix, &batch.gate_weight.matrix, made.k.view, made.gate.view}, threads);
  return made;
}

// (hidden / 16 + 8) * 2^-24 * sum |x||w|, and a denormal step a term.
std::vector<double> bound(View<const float, 2> x, const PreparedMatrix& weight) {
  std::vector<double> bounds;
  const double terms = static_cast<double>(weight.in);
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t n = 0; n < weight.out; ++n) {
      double magnitude = 0.0;
      for (int64_t i = 0; i < weight.in; ++i) magnitude += std::abs(x(t, i) * exact_element(weight, n, i));
      bounds.push_back((terms / 16 + 8) * 0x1p-24 * magnitude + terms * 0x1p-149);
    }
  }
  return bounds;
}

TEST(indexer_projection, agrees_with_the_reference_on_hard_values) {
  for (const Case& shape : kCases) {
    for (const MatrixFormat& wk : inputs::all_formats()) {
      for (const Values values : inputs::kAllValues) {
        if (shape.hidden > 1000 && values != Values::kNormal) continue;  // time
        SCOPED_TRACE(fmt::format("{}, wk {}, {}, seed 1", shape.what, describe(wk), inputs::name(values)));
        const Batch batch = make_batch(shape, wk, wk == kF32 ? kF32 : kBF16, values);
        const Problem problem = problem_of(shape, batch);
        const Result expected = result(kReference, problem, batch, batch.x.view);
        const Result actual = result(kCpu, problem, batch, batch.x.view);
        EXPECT_TRUE(
            test::agrees(actual.k.elements, expected.k.elements, bound(batch.x.view, batch.wk.matrix)));
        EXPECT_TRUE(test::agrees(actual.gate.elements, expected.gate.elements,
                                 bound(batch.x.view, batch.gate_weight.matrix)));
      }
    }
  }
}

TEST(indexer_projection, the_reference_takes_each_output_from_its_own_weight) {
  const float wk[] = {1.0f, 2.0f, 3.0f, 4.0f}, gate_weight[] = {-1.0f, 0.5f};
  Batch batch;
  batch.wk.matrix = {View<const float, 2>(wk, {2, 2}), 2, 2};
  batch.gate_weight.matrix = {View<const float, 2>(gate_weight, {1, 2}), 1, 2};
  const float x[] = {10.0f, 100.0f};
  const Result made = result(kReference, problem_of({"", 1, 2, 2, 1}, batch), batch, {x, {1, 2}});
  EXPECT_EQ(made.k.elements, (std::vector<float>{210.0f, 430.0f}));
  EXPECT_EQ(made.gate.elements, (std::vector<float>{40.0f}));
}

TEST(indexer_projection, rounds_the_gate_to_bf16_where_the_knob_asks_for_it_and_never_the_key) {
  const Case shape{"", 3, 200, 24, 8};
  const Batch batch = make_batch(shape, kF32, kBF16);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    Problem problem = problem_of(shape, batch);
    const Result plain = result(*row, problem, batch, batch.x.view);
    problem.setting.numerics.gate = Gate::kBf16;
    const Result rounded = result(*row, problem, batch, batch.x.view);
    EXPECT_TRUE(test::identical(rounded.k.elements, plain.k.elements));
    EXPECT_NE(rounded.gate.elements, plain.gate.elements);
    for (size_t i = 0; i < plain.gate.elements.size(); ++i)
      EXPECT_EQ(rounded.gate.elements[i], round_to_bf16(plain.gate.elements[i]));
  }
}

TEST(indexer_projection, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 7, 777, 35, 11};
  const Batch batch = make_batch(shape, kBlocks, kBF16);
  const Result whole = result(kCpu, problem_of(shape, batch), batch, batch.x.view);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    const Problem problem = problem_of(shape, batch, isa);
    for (const int threads : {2, 3}) {
      const Result other = result(kCpu, problem, batch, batch.x.view, threads);
      EXPECT_TRUE(test::identical(other.k.elements, whole.k.elements));
      EXPECT_TRUE(test::identical(other.gate.elements, whole.gate.elements));
    }
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const Result one = result(kCpu, problem, batch, batch.x.view.slice(0, t, 1));
      EXPECT_TRUE(test::identical(one.k.elements, {&whole.k.view(t, 0), one.k.elements.size()}));
      EXPECT_TRUE(test::identical(one.gate.elements, {&whole.gate.view(t, 0), one.gate.elements.size()}));
    }
  }
}

TEST(indexer_projection, a_NaN_stays_in_its_row) {
  const Case shape{"", 3, 40, 5, 3};
  Batch batch = make_batch(shape, kBF16, kBF16);
  batch.x.view(1, 39) = std::numeric_limits<float>::quiet_NaN();
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Result made = result(*row, problem_of(shape, batch), batch, batch.x.view);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t d = 0; d < 5; ++d) EXPECT_EQ(std::isnan(made.k.view(t, d)), t == 1);
      for (int64_t h = 0; h < 3; ++h) EXPECT_EQ(std::isnan(made.gate.view(t, h)), t == 1);
    }
  }
}

TEST(indexer_projection, reads_and_writes_rows_of_any_stride) {
  const Case shape{"", 3, 100, 7, 5};
  const Batch batch = make_batch(shape, kF32, kF32);
  Random random(2);
  Buffer<2> wide = inputs::make(random, Values::kNormal, 3, 150);
  for (int64_t t = 0; t < 3; ++t)
    for (int64_t i = 0; i < 100; ++i) wide.view(t, 20 + i) = batch.x.view(t, i);
  const Problem problem = problem_of(shape, batch);
  const Result expected = result(kCpu, problem, batch, batch.x.view);
  Buffer<2> both = inputs::make(random, Values::kConstant, 3, 20);
  test::run(kCpu, problem,
            Args{wide.view.slice(1, 20, 100), &batch.wk.matrix, &batch.gate_weight.matrix,
                 both.view.slice(1, 0, 7), both.view.slice(1, 10, 5)});
  for (int64_t t = 0; t < 3; ++t) {
    EXPECT_TRUE(test::identical({&both.view(t, 0), 7}, {&expected.k.view(t, 0), 7}));
    EXPECT_TRUE(test::identical({&both.view(t, 10), 5}, {&expected.gate.view(t, 0), 5}));
    EXPECT_EQ(both.view(t, 7), 0.5f);
    EXPECT_EQ(both.view(t, 15), 0.5f);
  }
}

TEST(indexer_projection, names_the_tensor_of_a_wrong_shape) {
  const Case shape{"", 2, 8, 4, 3};
  const Batch batch = make_batch(shape, kF32, kF32);
  const Problem problem = problem_of(shape, batch);
  const Result made = result(kReference, problem, batch, batch.x.view);
  const auto message = [&](const auto& spoil) {
    Args args{batch.x.view, &batch.wk.matrix, &batch.gate_weight.matrix, made.k.view, made.gate.view};
    spoil(args);
    return test::message_of([&] { check(problem, args); });
  };
  EXPECT_EQ(message([](Args&) {}), "");
  EXPECT_EQ(message([&](Args& args) { args.x = batch.x.view.slice(1, 0, 7); }),
            "indexer_projection: x: expected shape [2, 8], found [2, 7]");
  EXPECT_EQ(message([&](Args& args) { args.k = made.k.view.slice(0, 0, 1); }),
            "indexer_projection: k: expected shape [2, 4], found [1, 4]");
  EXPECT_EQ(message([](Args& args) { args.gate = args.gate.slice(1, 0, 2); }),
            "indexer_projection: gate: expected shape [2, 3], found [2, 2]");
}

TEST(indexer_projection, refuses_numerics_and_weights_that_it_does_not_do) {
  const auto refusal = [](const Implementation& row, const auto& choose) {
    Problem problem{test::fp32_setting(), 8, 4, 3, kBlocks, kBF16};
    choose(problem, problem.setting.numerics);
    return test::refusal(row, problem);
  };
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(refusal(*row, [](Problem&, Numerics& n) { n.activation = Activation::kBf16; }),
              "activation = bf16, takes fp32");
    EXPECT_EQ(refusal(*row, [](Problem&, Numerics& n) { n.indexer_wk = IndexerWk::kBf16; }),
              "indexer_wk = bf16, takes fp32");
    EXPECT_EQ(refusal(*row, [](Problem&, Numerics& n) { n.gate_weight = GateWeight::kFp8; }),
              "gate_weight = fp8, takes stored");
    EXPECT_EQ(refusal(*row, [](Problem&, Numerics& n) { n.mma = Mma::kHopper; }),
              "mma = hopper, takes exact");
    EXPECT_EQ(refusal(*row, [](Problem& problem, Numerics&) { problem.gate_weight = kBlocks; }), "");
  }
}

}  // namespace
}  // namespace fulgurite::indexer_projection
