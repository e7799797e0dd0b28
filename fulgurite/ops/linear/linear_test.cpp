#include "fulgurite/ops/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/linear/linear_cases.h"
#include "test/op_test.h"

namespace fulgurite::linear {
namespace {

using inputs::Buffer;
using inputs::Values;

Problem problem_of(const Case& shape, const MatrixFormat& format, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.in, shape.out, format, Output::kActivation};
}

Buffer<2> result(const Implementation& implementation, const Problem& problem, View<const float, 2> x,
                 const PreparedMatrix& weight, int threads = 1) {
  Random unused(0);
  Buffer<2> y = inputs::make(unused, Values::kConstant, x.extent[0], problem.out);
  test::run(implementation, problem, Args{x, &weight, y.view}, threads);
  return y;
}

// (in / 16 + 8) * 2^-24 * sum |x||W| of each element of y, and half the smallest denormal for each term.
std::vector<double> bound(View<const float, 2> x, const PreparedMatrix& weight) {
  std::vector<double> bounds;
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t n = 0; n < weight.out; ++n) {
      double magnitude = 0.0;
      for (int64_t i = 0; i < weight.in; ++i) magnitude += std::abs(x(t, i) * exact_element(weight, n, i));
      bounds.push_back((weight.in / 16.0 + 8) * 0x1p-24 * magnitude +
                       static_cast<double>(weight.in) * 0x1p-149);
    }
  }
  return bounds;
}

void expect_agreement(const Case& shape, const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{} [{}, {}] -> {}, {}, {}, seed 1", shape.what, shape.tokens, shape.in, shape.out,
                           describe(format), inputs::name(values)));
  Random random(1);
  const Buffer<2> x = inputs::make(random, values, shape.tokens, shape.in);
  const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
  const Buffer<2> expected = result(kReference, problem_of(shape, format), x.view, weight.matrix);
  const Buffer<2> actual = result(kCpu, problem_of(shape, format), x.view, weight.matrix);
  EXPECT_TRUE(test::agrees(actual.elements, expected.elements, bound(x.view, weight.matrix)));
}

TEST(linear, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const MatrixFormat& format : inputs::all_formats())
      for (const Values values : inputs::kAllValues) expect_agreement(shape, format, values);
}

TEST(linear, agrees_with_the_reference_at_real_sizes) {
  for (const Case& shape : kRealCases)
    for (const MatrixFormat& format : inputs::all_formats()) expect_agreement(shape, format, Values::kNormal);
}

TEST(linear, the_reference_is_the_product_of_the_exact_weights) {
  const float scales[] = {0.5f, 4.0f};
  const e4m3 codes[] = {{0x38}, {0xB8}, {0x40}};  // 1, -1, 2
  const PreparedMatrix weight{BlockScaled{{codes, {1, 3}}, {scales, {1, 2}}, {1, 2}, ScaleFormat::kF32}, 1,
                              3};
  const float x[] = {3.0f, 5.0f, 7.0f};
  const Problem problem{test::fp32_setting(), 3, 1, format_of(weight), Output::kActivation};
  EXPECT_EQ(result(kReference, problem, {x, {1, 3}}, weight).elements[0], 3 * 0.5f - 5 * 0.5f + 7 * 8.0f);
}

TEST(linear, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 11, 777, 35};
  const MatrixFormat format{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32};
  Random random(2);
  const Buffer<2> x = inputs::make(random, Values::kNormal, shape.tokens, shape.in);
  const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
  const Buffer<2> whole = result(kCpu, problem_of(shape, format), x.view, weight.matrix);
  for (const Isa isa : test::machine_isas()) {
    SCOPED_TRACE(name(isa));
    EXPECT_TRUE(test::identical(
        result(kCpu, problem_of(shape, format, isa), x.view, weight.matrix, 3).elements, whole.elements));
    for (int64_t t = 0; t < shape.tokens; ++t) {
      const Buffer<2> one =
          result(kCpu, problem_of(shape, format, isa), x.view.slice(0, t, 1), weight.matrix, 2);
      EXPECT_TRUE(test::identical(
          one.elements, {&whole.elements[static_cast<size_t>(t * shape.out)], one.elements.size()}));
    }
  }
}

TEST(linear, a_NaN_or_infinity_stays_in_its_row) {
  const Case shape{"", 4, 130, 5};
  const MatrixFormat format{MatrixForm::kBF16, {}, ScaleFormat::kF32};
  Random random(3);
  Buffer<2> x = inputs::make(random, Values::kNormal, shape.tokens, shape.in);
  x.view(1, 129) = std::numeric_limits<float>::quiet_NaN();
  x.view(2, 0) = std::numeric_limits<float>::infinity();
  const inputs::Weight weight = inputs::make_weight(random, shape.out, shape.in, format);
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const Buffer<2> y = result(*row, problem_of(shape, format), x.view, weight.matrix);
    for (int64_t n = 0; n < shape.out; ++n) {
      EXPECT_TRUE(std::isnan(y.view(1, n)));
      EXPECT_TRUE(std::isinf(y.view(2, n)));
      EXPECT_TRUE(std::isfinite(y.view(0, n)) && std::isfinite(y.view(3, n)));
    }
  }
}

TEST(linear, reads_rows_of_any_stride) {
  Random random(4);
  const Buffer<2> wide = inputs::make(random, Values::kNormal, 3, 200);
  const View<const float, 2> x = wide.view.slice(1, 40, 100);
  const MatrixFormat format{MatrixForm::kF32, {}, ScaleFormat::kF32};
  const inputs::Weight weight = inputs::make_weight(random, 7, 100, format);
  const Problem problem{test::fp32_setting(), 100, 7, format, Output::kActivation};
  EXPECT_TRUE(test::agrees(result(kCpu, problem, x, weight.matrix).elements,
                           result(kReference, problem, x, weight.matrix).elements, bound(x, weight.matrix)));
}

TEST(linear, names_the_tensor_of_a_wrong_shape) {
  Random random(5);
  const Buffer<2> x = inputs::make(random, Values::kNormal, 2, 9);
  Buffer<2> y = inputs::make(random, Values::kNormal, 2, 4);
  const MatrixFormat format{MatrixForm::kF32, {}, ScaleFormat::kF32};
  const inputs::Weight weight = inputs::make_weight(random, 4, 8, format);
  const Problem problem{test::fp32_setting(), 8, 4, format, Output::kActivation};
  EXPECT_EQ(test::message_of([&] {
              check(problem, {x.view, &weight.matrix, y.view});
            }),
            "linear: x: expected shape [2, 8], found [2, 9]");
  EXPECT_EQ(test::message_of([&] {
              check(problem, {x.view.slice(1, 0, 8), &weight.matrix, y.view.slice(0, 0, 1)});
            }),
            "linear: y: expected shape [2, 4], found [1, 4]");
}

TEST(linear, refuses_numerics_that_it_does_not_do) {
  const Problem fp32{test::fp32_setting(),
                     8,
                     4,
                     {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32},
                     Output::kActivation};
  Problem bf16 = fp32, quantized = fp32, hopper = fp32;
  bf16.setting.numerics.activation = Activation::kBf16;
  quantized.setting.numerics.activation_quant = ActivationQuant::kE4m3;
  hopper.setting.numerics.mma = Mma::kHopper;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(test::refusal(*row, fp32), "");
    EXPECT_EQ(test::refusal(*row, bf16), "activation = bf16, takes fp32");
    EXPECT_EQ(test::refusal(*row, quantized), "activation_quant = e4m3, takes none");
    EXPECT_EQ(test::refusal(*row, hopper), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::linear
