#include "fulgurite/ops/head_projection/head_projection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/head_projection/head_projection_cases.h"
#include "test/op_test.h"

namespace fulgurite::head_projection {
namespace {

using inputs::Buffer;
using inputs::Values;

constexpr Direction kDirections[] = {Direction::kFromRows, Direction::kToRows};

Problem problem_of(const Case& shape, Direction direction, const MatrixFormat& format,
                   Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), direction,  shape.heads,  shape.rows_per_head,
          shape.first_row,         shape.rows, shape.latent, format};
}

int64_t input_width(const Problem& problem) {
  return problem.direction == Direction::kFromRows ? problem.rows : problem.latent;
}
int64_t output_width(const Problem& problem) {
  return problem.direction == Direction::kFromRows ? problem.latent : problem.rows;
}

Buffer<3> make_x(Random& random, const Problem& problem, int64_t tokens, Values values = Values::kNormal) {
  return inputs::make(random, values, tokens, problem.heads, input_width(problem));
}
inputs::Weight weight_of(Random& random, const Problem& problem) {
  return inputs::make_weight(random, problem.heads * problem.rows_per_head, problem.latent, problem.weight);
}

Buffer<3> result(const Implementation& implementation, const Problem& problem, View<const float, 3> x,
                 const PreparedMatrix& weight, int threads = 1) {
  Random unused(0);
  Buffer<3> y = inputs::make(unused, Values::kConstant, x.extent[0], problem.heads, output_width(problem));
  test::run(implementation, problem, Args{x, &weight, y.view}, threads);
  return y;
}

// from_rows (terms + 8), to_rows (terms / 16 + 8), times 2^-24 * sum |x||W|, and a denormal step a term.
std::vector<double> bound(const Problem& problem, View<const float, 3> x, const PreparedMatrix& weight) {
  std::vector<double> bounds;
  const bool from_rows = problem.direction == Direction::kFromRows;
  const double terms = static_cast<double>(x.extent[2]), steps = from_rows ? terms + 8 : terms / 16 + 8;
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const int64_t first = h * problem.rows_per_head + problem.first_row;
      for (int64_t n = 0; n < output_width(problem); ++n) {
        double magnitude = 0.0;
        for (int64_t i = 0; i < x.extent[2]; ++i)
          magnitude += std::abs(x(t, h, i) * (from_rows ? exact_element(weight, first + i, n)
                                                        : exact_element(weight, first + n, i)));
        bounds.push_back(steps * 0x1p-24 * magnitude + terms * 0x1p-149);
      }
    }
  }
  return bounds;
}

void expect_agreement(const Case& shape, Direction direction, const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {}, {}, seed 1", shape.what,
                           direction == Direction::kFromRows ? "from rows" : "to rows", describe(format),
                           inputs::name(values)));
  Random random(1);
  const Problem problem = problem_of(shape, direction, format);
  const Buffer<3> x = make_x(random, problem, shape.tokens, values);
  const inputs::Weight weight = weight_of(random, problem);
  EXPECT_TRUE(test::agrees(result(kCpu, problem, x.view, weight.matrix).elements,
                           result(kReference, problem, x.view, weight.matrix).elements,
                           bound(problem, x.view, weight.matrix)));
}

TEST(head_projection, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Case& shape : kAwkwardCases)
    for (const Direction direction : kDirections)
      for (const MatrixFormat& format : inputs::all_formats())
        for (const Values values : inputs::kAllValues) {
          if (shape.latent > 500 && values != Values::kOutliers) continue;  // time
          expect_agreement(shape, direction, format, values);
        }
}

TEST(head_projection, agrees_with_the_reference_at_real_sizes) {
  for (const Direction direction : kDirections)
    for (const MatrixFormat& format : inputs::all_formats())
      expect_agreement(kRealCases[direction == Direction::kFromRows ? 0 : 1], direction, format,
                       Values::kNormal);
}

TEST(head_projection, parts_follow_scale_blocks_of_any_width) {
  for (const int64_t columns : {1, 16, 64, 100, 192, 500})
    expect_agreement({"", 3, 2, 12, 3, 7, 203}, Direction::kFromRows,
                     {MatrixForm::kE4M3Blocks, {5, columns}, ScaleFormat::kF32}, Values::kNormal);
}

// Two heads of three rows; the last two of each are the head's matrix.
TEST(head_projection, the_reference_takes_each_head_s_own_rows) {
  const float rows[] = {9.0f, 9.0f, 1.0f, 2.0f, 3.0f, 4.0f, 9.0f, 9.0f, 5.0f, 6.0f, 7.0f, 8.0f};
  const PreparedMatrix weight{View<const float, 2>(rows, {6, 2}), 6, 2};
  const Case shape{"", 1, 2, 3, 1, 2, 2};
  const float x[] = {1.0f, 10.0f, 1.0f, 100.0f};
  const auto y = [&](Direction direction) {
    return result(kReference, problem_of(shape, direction, {}), {x, {1, 2, 2}}, weight).elements;
  };
  EXPECT_EQ(y(Direction::kFromRows), (std::vector<float>{31.0f, 42.0f, 705.0f, 806.0f}));
  EXPECT_EQ(y(Direction::kToRows), (std::vector<float>{21.0f, 43.0f, 605.0f, 807.0f}));
}

TEST(head_projection, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  const Case shape{"", 7, 3, 40, 5, 33, 203};
  for (const Direction direction : kDirections) {
    for (const MatrixFormat& format : inputs::all_formats()) {
      Random random(2);
      const Problem problem = problem_of(shape, direction, format);
      const Buffer<3> x = make_x(random, problem, shape.tokens);
      const inputs::Weight weight = weight_of(random, problem);
      const Buffer<3> whole = result(kCpu, problem, x.view, weight.matrix);
      for (const Isa isa : test::machine_isas()) {
        SCOPED_TRACE(name(isa));
        const Problem other = problem_of(shape, direction, format, isa);
        for (const int threads : {2, 3})
          EXPECT_TRUE(
              test::identical(result(kCpu, other, x.view, weight.matrix, threads).elements, whole.elements));
        for (int64_t t = 0; t < shape.tokens; ++t) {
          const Buffer<3> one = result(kCpu, other, x.view.slice(0, t, 1), weight.matrix);
          EXPECT_TRUE(test::identical(one.elements, {&whole.view(t, 0, 0), one.elements.size()}));
        }
      }
    }
  }
}

TEST(head_projection, threads_decode_into_memory_of_their_own) {
  const Case shape{"", 2, 3, 16, 0, 16, 80};
  for (const Direction direction : kDirections) {
    Random random(6);
    const Problem problem = problem_of(shape, direction, {MatrixForm::kBF16, {}, ScaleFormat::kF32});
    const Buffer<3> x = make_x(random, problem, shape.tokens);
    const inputs::Weight weight = weight_of(random, problem);
    const Buffer<3> y = result(kCpu, problem, x.view, weight.matrix);
    const test::ExactBytes workspace(kCpu.workspace_bytes(problem, 3));
    std::ranges::fill(workspace.bytes(), std::byte{0});
    kCpu.run(problem, {x.view, &weight.matrix, y.view}, {3, nullptr, workspace.bytes()});
    for (size_t thread = 0; thread < 3; ++thread) {
      const size_t bytes = workspace.bytes().size() / 3;
      const std::span<const std::byte> own = workspace.bytes().subspan(thread * bytes, bytes);
      EXPECT_TRUE(std::ranges::any_of(own, [](std::byte byte) { return byte != std::byte{0}; }));
    }
  }
}

TEST(head_projection, reads_and_writes_slices_of_wider_heads) {
  const Case shape{"", 3, 4, 16, 6, 10, 20};
  for (const Direction direction : kDirections) {
    Random random(3);
    const Problem problem = problem_of(shape, direction, {MatrixForm::kBF16, {}, ScaleFormat::kF32});
    const Buffer<3> x = make_x(random, problem, shape.tokens);
    const inputs::Weight weight = weight_of(random, problem);
    Buffer<3> wide_x = inputs::make(random, Values::kNormal, 3, 4, 40);
    Buffer<3> wide_y = inputs::make(random, Values::kConstant, 3, 4, 40);
    const View<float, 3> part_x = wide_x.view.slice(2, 15, input_width(problem));
    const View<float, 3> part_y = wide_y.view.slice(2, 5, output_width(problem));
    for (int64_t i = 0; i < x.view.size(); ++i) {
      const int64_t width = input_width(problem), h = i / width % 4;
      part_x(i / width / 4, h, i % width) = x.elements[static_cast<size_t>(i)];
    }
    test::run(kCpu, problem, Args{part_x, &weight.matrix, part_y});
    const Buffer<3> expected = result(kCpu, problem, x.view, weight.matrix);
    for (int64_t t = 0; t < 3; ++t) {
      for (int64_t h = 0; h < 4; ++h) {
        const size_t width = static_cast<size_t>(output_width(problem));
        EXPECT_TRUE(test::identical({&part_y(t, h, 0), width}, {&expected.view(t, h, 0), width}));
        EXPECT_EQ(wide_y.view(t, h, 4), 0.5f);
        EXPECT_EQ(wide_y.view(t, h, 5 + output_width(problem)), 0.5f);
      }
    }
  }
}

TEST(head_projection, a_NaN_or_infinity_stays_in_its_token_and_head) {
  const Case shape{"", 3, 2, 12, 0, 12, 70};
  for (const Direction direction : kDirections) {
    Random random(4);
    const Problem problem = problem_of(shape, direction, {MatrixForm::kBF16, {}, ScaleFormat::kF32});
    Buffer<3> x = make_x(random, problem, shape.tokens);
    x.view(0, 1, 3) = std::numeric_limits<float>::quiet_NaN();
    x.view(2, 0, 0) = -std::numeric_limits<float>::infinity();
    const inputs::Weight weight = weight_of(random, problem);
    for (const Implementation* const row : {&kReference, &kCpu}) {
      const Buffer<3> y = result(*row, problem, x.view, weight.matrix);
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t h = 0; h < 2; ++h)
          for (int64_t n = 0; n < output_width(problem); ++n) {
            EXPECT_EQ(std::isnan(y.view(t, h, n)), t == 0 && h == 1);
            EXPECT_EQ(std::isinf(y.view(t, h, n)), t == 2 && h == 0);
          }
    }
  }
}

TEST(head_projection, names_the_tensor_of_a_wrong_shape) {
  Random random(5);
  const Case shape{"", 2, 3, 8, 2, 5, 9};
  const Problem problem = problem_of(shape, Direction::kFromRows, {});
  const inputs::Weight weight = weight_of(random, problem);
  const Buffer<3> rows = inputs::make(random, Values::kNormal, 2, 3, 5);
  const Buffer<3> latent = inputs::make(random, Values::kNormal, 2, 3, 9);
  const auto message = [&](Direction direction, View<float, 3> x, View<float, 3> y) {
    return test::message_of([&] { check(problem_of(shape, direction, {}), {x, &weight.matrix, y}); });
  };
  EXPECT_EQ(message(Direction::kFromRows, rows.view, latent.view), "");
  EXPECT_EQ(message(Direction::kToRows, latent.view, rows.view), "");
  EXPECT_EQ(message(Direction::kToRows, rows.view, latent.view),
            "head_projection: x: expected shape [2, 3, 9], found [2, 3, 5]");
  EXPECT_EQ(message(Direction::kFromRows, rows.view, rows.view),
            "head_projection: y: expected shape [2, 3, 9], found [2, 3, 5]");
  EXPECT_EQ(message(Direction::kFromRows, rows.view, latent.view.slice(1, 0, 2)),
            "head_projection: y: expected shape [2, 3, 9], found [2, 2, 9]");
}

TEST(head_projection, refuses_numerics_that_it_does_not_do) {
  Problem activation = problem_of({"", 1, 1, 1, 0, 1, 1}, Direction::kToRows, {}), mma = activation;
  activation.setting.numerics.activation = Activation::kBf16;
  mma.setting.numerics.mma = Mma::kHopper;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(test::refusal(*row, activation), "activation = bf16, takes fp32");
    EXPECT_EQ(test::refusal(*row, mma), "mma = hopper, takes exact");
  }
}

}  // namespace
}  // namespace fulgurite::head_projection
