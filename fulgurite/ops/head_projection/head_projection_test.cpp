#include "fulgurite/ops/head_projection/head_projection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "fulgurite/ops/head_projection/head_projection_audit.h"
#include "fulgurite/ops/head_projection/head_projection_cases.h"
#include "test/op_test.h"

namespace fulgurite::head_projection {
namespace {

using inputs::TensorBuffer;
using inputs::Values;

constexpr const Implementation* kCpuRows[] = {&kCpuBf16, &kCpu};
constexpr const Implementation* kRows[] = {&kCpuBf16, &kCpu, &kReference};
constexpr Direction kDirections[] = {Direction::kFromRows, Direction::kToRows};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

std::vector<Setting> settings(Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), test::serving_setting(isa), test::fp16_setting(isa)};
}

DType activation_of(const Setting& setting) { return activation_type(setting.numerics); }

Problem problem_of(const Setting& setting, const Case& shape, Direction direction,
                   const MatrixFormat& format) {
  return {setting,    direction,    shape.heads, shape.rows_per_head, shape.first_row,
          shape.rows, shape.latent, format,      shape.tokens};
}

int64_t input_width(const Problem& problem) {
  return problem.direction == Direction::kFromRows ? problem.rows : problem.latent;
}
int64_t output_width(const Problem& problem) {
  return problem.direction == Direction::kFromRows ? problem.latent : problem.rows;
}

TensorBuffer<3> make_x(Random& random, const Problem& problem, int64_t tokens,
                       Values values = Values::kNormal) {
  return inputs::make_tensor(random, values, activation_of(problem.setting),
                             std::array{tokens, problem.heads, input_width(problem)});
}
inputs::Weight weight_of(Random& random, const Problem& problem) {
  return inputs::make_weight(random, problem.heads * problem.rows_per_head, problem.latent, problem.weight);
}

std::vector<float> result(const Implementation& row, const Problem& problem, const ConstTensor<3>& x,
                          const PreparedMatrix& weight, int threads = 1) {
  const auto y = inputs::unwritten<3>(x.dtype, {x.extent[0], problem.heads, output_width(problem)});
  test::run(row, problem, Args{x, &weight, y.view}, threads);
  return y.values();
}

// Every row that takes the problem; there is one.
void expect_agreement(const Problem& problem, const ConstTensor<3>& x, const PreparedMatrix& weight) {
  int rows = 0;
  for (const Implementation* const row : kCpuRows) {
    if (row->supports(problem)) continue;
    ++rows;
    const auto y = inputs::unwritten<3>(x.dtype, {x.extent[0], problem.heads, output_width(problem)});
    const test::ExactBytes workspace(row->workspace_bytes(problem, 1));
    const audit::OpReport report =
        judge(*row, problem, {x, &weight, y.view}, {1, nullptr, workspace.bytes()});
    EXPECT_TRUE(report.within()) << row->name << "\n" << describe(report);
  }
  EXPECT_GT(rows, 0);
}

void expect_agreement(const Setting& setting, const Case& shape, Direction direction,
                      const MatrixFormat& format, Values values) {
  SCOPED_TRACE(fmt::format("{}, {}, {}, {}, {}, {}, seed 1", shape.what,
                           direction == Direction::kFromRows ? "from rows" : "to rows", describe(format),
                           inputs::name(values), summary(setting.numerics), name(setting.target.isa)));
  Random random(1);
  const Problem problem = problem_of(setting, shape, direction, format);
  const TensorBuffer<3> x = make_x(random, problem, shape.tokens, values);
  const inputs::Weight weight = weight_of(random, problem);
  expect_agreement(problem, x.view, weight.matrix);
}

TEST(head_projection, agrees_with_the_reference_at_awkward_sizes_on_hard_values) {
  for (const Setting& setting : settings())
    for (const Case& shape : kAwkwardCases)
      for (const Direction direction : kDirections)
        for (const MatrixFormat& format : inputs::all_formats())
          for (const Values values : inputs::kAllValues) {
            if (shape.latent > 500 && (values != Values::kOutliers || format == kBF16)) continue;  // time
            expect_agreement(setting, shape, direction, format, values);
          }
}

TEST(head_projection, agrees_with_the_reference_at_real_sizes_and_over_more_tokens_than_a_chunk) {
  for (const Setting& setting : settings()) {
    for (const Direction direction : kDirections) {
      for (const MatrixFormat& format : inputs::all_formats())
        expect_agreement(setting, kRealCases[direction == Direction::kFromRows ? 0 : 1], direction, format,
                         Values::kNormal);
      expect_agreement(setting, {"", 259, 2, 20, 3, 15, 150}, direction, inputs::all_formats()[2],
                       Values::kNormal);
    }
  }
}

TEST(head_projection, agrees_with_the_reference_on_every_instruction_set) {
  for (const Isa isa : test::machine_isas())
    for (const Setting& setting : settings(isa))
      for (const Direction direction : kDirections)
        for (const MatrixFormat& format : inputs::all_formats())
          for (const Values values : {Values::kOutliers, Values::kDenormal})
            expect_agreement(setting, {"", 7, 1, 150, 3, 139, 203}, direction, format, values);
}

TEST(head_projection, parts_follow_scale_blocks_of_any_width) {
  for (const Setting& setting : settings())
    for (const int64_t columns : {1, 16, 64, 100, 192, 500})
      for (const int64_t tokens : {3, 6})
        expect_agreement(setting, {"", tokens, 2, 12, 3, 7, 603}, Direction::kFromRows,
                         {MatrixForm::kE4M3Blocks, {5, columns}, ScaleFormat::kF32}, Values::kNormal);
}

// Two heads of three rows; the last two of each are the head's matrix.
TEST(head_projection, takes_each_head_s_own_rows) {
  const float rows[] = {9.0f, 9.0f, 1.0f, 2.0f, 3.0f, 4.0f, 9.0f, 9.0f, 5.0f, 6.0f, 7.0f, 8.0f};
  const PreparedMatrix weight{View<const float, 2>(rows, {6, 2}), 6, 2};
  for (const Setting& setting : settings()) {
    const TensorBuffer<3> x = inputs::unwritten<3>(activation_of(setting), {1, 2, 2});
    const float values[] = {1.0f, 10.0f, 1.0f, 100.0f};
    for (int64_t i = 0; i < 4; ++i) store(x.view, values[i], 0, i / 2, i % 2);
    for (const Implementation* const row : kRows) {
      const auto y = [&](Direction direction) {
        return result(*row, problem_of(setting, {"", 1, 2, 3, 1, 2, 2}, direction, {}), x.view, weight);
      };
      if (row->supports(problem_of(setting, {"", 1, 2, 3, 1, 2, 2}, Direction::kToRows, {}))) continue;
      const float last = setting.numerics.activation == Activation::kBf16 ? 808.0f : 807.0f;
      const float first = setting.numerics.activation == Activation::kBf16 ? 704.0f : 705.0f;
      EXPECT_EQ(y(Direction::kFromRows)[0], 31.0f);
      EXPECT_EQ(y(Direction::kFromRows)[2], first);  // bf16 has every fourth number here
      EXPECT_EQ(y(Direction::kToRows)[1], 43.0f);
      EXPECT_EQ(y(Direction::kToRows)[3], last);
    }
  }
}

// The only weight is 1 + 2^-9, of which bf16 makes 1; its product with 384 and 0.5 in front is 385.25 or
// 384.5.
TEST(head_projection, reads_weights_as_bf16_where_the_activation_is) {
  const e4m3 ones[] = {{0x38}, {0x38}};
  const float scale = 1.0f + 0x1p-9f;
  const auto y = [&](const Implementation& row, const Setting& setting, Direction direction) {
    const bool from_rows = direction == Direction::kFromRows;
    const int64_t rows = from_rows ? 2 : 1, latent = from_rows ? 1 : 2;
    const PreparedMatrix weight{
        BlockScaled{{ones, {rows, latent}}, {&scale, {1, 1}}, {128, 128}, ScaleFormat::kF32}, rows, latent};
    const TensorBuffer<3> x = inputs::unwritten<3>(activation_of(setting), {1, 1, 2});
    store(x.view, 384.0f, 0, 0, 0);
    store(x.view, 0.5f, 0, 0, 1);
    const Case shape{"", 1, 1, rows, 0, rows, latent};
    return result(row, problem_of(setting, shape, direction, format_of(weight)), x.view, weight)[0];
  };
  for (const Direction direction : kDirections) {
    for (const Implementation* const row : {&kReference, &kCpuBf16})
      EXPECT_EQ(y(*row, test::serving_setting(), direction), 384.0f);  // of the exact weight 386
    for (const Implementation* const row : {&kReference, &kCpu})
      EXPECT_EQ(y(*row, test::fp32_setting(), direction), 384.5f * scale);
  }
}

void expect_the_same_bits(const Case& shape, const Setting& setting, Direction direction,
                          const MatrixFormat& format) {
  Random random(2);
  Problem problem = problem_of(setting, shape, direction, format);
  const TensorBuffer<3> x = make_x(random, problem, shape.tokens);
  const inputs::Weight weight = weight_of(random, problem);
  for (const Implementation* const row : kCpuRows) {
    if (row->supports(problem)) continue;
    const std::vector<float> whole = result(*row, problem, x.view, weight.matrix);
    for (const Isa isa : test::machine_isas()) {
      SCOPED_TRACE(fmt::format("{}, {}", row->name, name(isa)));
      problem.setting.target.isa = isa;
      EXPECT_TRUE(test::identical(result(*row, problem, x.view, weight.matrix, 3), whole));
      for (const int64_t tokens : {1, 4, 8, 9}) {
        const auto part = result(*row, problem, x.view.slice(0, 3, tokens), weight.matrix, 2);
        const size_t token = whole.size() / static_cast<size_t>(shape.tokens);
        EXPECT_TRUE(test::identical(part, std::span(whole).subspan(3 * token, part.size())));
      }
    }
  }
}

TEST(head_projection, gives_the_same_bits_for_any_batch_threads_and_instruction_set) {
  for (const Case& shape : {Case{"", 12, 3, 40, 5, 33, 203}, Case{"", 12, 2, 192, 64, 128, 208}})
    for (const Setting& setting : settings())
      for (const Direction direction : kDirections)
        for (const MatrixFormat& format : inputs::all_formats())
          expect_the_same_bits(shape, setting, direction, format);
}

TEST(head_projection, threads_decode_into_memory_of_their_own) {
  const Case shape{"", 2, 3, 40, 0, 40, 2100};  // worth several threads
  for (const Setting& setting : settings()) {
    for (const Direction direction : kDirections) {
      Random random(6);
      const Problem problem = problem_of(setting, shape, direction, kBF16);
      const TensorBuffer<3> x = make_x(random, problem, shape.tokens);
      const inputs::Weight weight = weight_of(random, problem);
      const auto y = inputs::unwritten<3>(x.view.dtype, {2, 3, output_width(problem)});
      for (const Implementation* const row : kCpuRows) {
        if (row->supports(problem)) continue;
        const test::ExactBytes workspace(row->workspace_bytes(problem, 3));
        std::ranges::fill(workspace.bytes(), std::byte{0});
        row->run(problem, {x.view, &weight.matrix, y.view}, {3, nullptr, workspace.bytes()});
        for (size_t thread = 0; thread < 3; ++thread) {
          const size_t bytes = workspace.bytes().size() / 3;
          const std::span<const std::byte> own = workspace.bytes().subspan(thread * bytes, bytes);
          EXPECT_TRUE(std::ranges::any_of(own, [](std::byte byte) { return byte != std::byte{0}; }));
        }
      }
    }
  }
}

TEST(head_projection, reads_and_writes_slices_of_wider_heads) {
  for (const Setting& setting : settings()) {
    for (const Direction direction : kDirections) {
      Random random(3);
      const Problem problem = problem_of(setting, {"", 3, 4, 16, 6, 9, 21}, direction, kBF16);
      const TensorBuffer<3> x = make_x(random, problem, 3);
      const inputs::Weight weight = weight_of(random, problem);
      const TensorBuffer<3> wide_x = inputs::unwritten<3>(x.view.dtype, {3, 4, 40});
      for (int64_t t = 0; t < 3; ++t)
        for (int64_t h = 0; h < 4; ++h)
          for (int64_t i = 0; i < input_width(problem); ++i)
            store(wide_x.view, load(x.view, t, h, i), t, h, 15 + i);
      for (const Implementation* const row : kRows) {
        if (row->supports(problem)) continue;
        const TensorBuffer<3> wide_y = inputs::unwritten<3>(x.view.dtype, {3, 4, 40});
        const float before = wide_y.values()[0];
        test::run(*row, problem,
                  Args{wide_x.view.slice(2, 15, input_width(problem)), &weight.matrix,
                       wide_y.view.slice(2, 5, output_width(problem))});
        const std::vector<float> expected = result(*row, problem, x.view, weight.matrix), y = wide_y.values();
        const auto width = static_cast<size_t>(output_width(problem));
        for (size_t i = 0; i < 12; ++i) {
          EXPECT_TRUE(
              test::identical(std::span(y).subspan(i * 40 + 5, width), {&expected[i * width], width}));
          EXPECT_EQ(y[i * 40 + 4], before);
          EXPECT_EQ(y[i * 40 + 5 + width], before);
        }
      }
    }
  }
}

TEST(head_projection, a_NaN_or_infinity_stays_in_its_token_and_head) {
  for (const Setting& setting : settings()) {
    for (const Direction direction : kDirections) {
      Random random(4);
      const Problem problem = problem_of(setting, {"", 3, 2, 12, 0, 12, 70}, direction, kBF16);
      const TensorBuffer<3> x = make_x(random, problem, 3);
      store(x.view, std::numeric_limits<float>::quiet_NaN(), 0, 1, 3);
      store(x.view, -std::numeric_limits<float>::infinity(), 2, 0, 0);
      store(x.view, 3e38f, 1, 0, 0);
      const inputs::Weight weight = weight_of(random, problem);
      expect_agreement(problem, x.view, weight.matrix);
      const std::vector<float> y = result(kReference, problem, x.view, weight.matrix);
      const size_t width = y.size() / 6;
      for (size_t i = 0; i < y.size(); ++i) {
        EXPECT_EQ(std::isnan(y[i]), i / width == 1);
        EXPECT_EQ(std::isinf(y[i]), i / width == 4 || (i / width == 2 && std::isinf(y[i])));
      }
    }
  }
}

TEST(head_projection, names_the_tensor_of_a_wrong_shape) {
  Random random(5);
  const auto problem = [](Direction direction) {
    return problem_of(test::fp32_setting(), {"", 2, 3, 8, 2, 5, 9}, direction, {});
  };
  const inputs::Weight weight = weight_of(random, problem(Direction::kToRows));
  const auto rows = inputs::unwritten<3>(DType::kF32, {2, 3, 5}),
             latent = inputs::unwritten<3>(DType::kF32, {2, 3, 9});
  const auto message = [&](Direction direction, const Tensor<3>& x, const Tensor<3>& y) {
    return test::message_of([&] { check(problem(direction), {x, &weight.matrix, y}); });
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
  const auto refusal = [](const Implementation& row, const Setting& setting, const auto& choose,
                          const MatrixFormat& format = kBF16) {
    Problem problem = problem_of(setting, {"", 1, 1, 1, 0, 1, 1}, Direction::kToRows, format);
    choose(problem.setting.numerics);
    return test::refusal(row, problem);
  };
  const auto nothing = [](Numerics&) {};
  const Setting serving = test::serving_setting(), fp32 = test::fp32_setting();
  for (const Implementation* const row : kRows) {
    const Setting setting = row == &kCpu ? fp32 : serving;
    EXPECT_EQ(refusal(*row, setting, nothing), "");
    EXPECT_EQ(refusal(*row, setting, [](Numerics& n) { n.mma = Mma::kHopper; }),
              row == &kReference ? "" : "mma = hopper, takes exact");
  }
  EXPECT_EQ(refusal(kCpu, serving, nothing), "activation = bf16, takes fp32 or fp16");
  EXPECT_EQ(refusal(kCpu, test::fp16_setting(), nothing), "");
  EXPECT_EQ(refusal(kCpuBf16, test::fp16_setting(), nothing), "activation = fp16, takes bf16");
  EXPECT_EQ(refusal(kCpuBf16, fp32, nothing), "activation = fp32, takes bf16");
  EXPECT_NE(refusal(kCpuBf16, serving, nothing, {MatrixForm::kE4M3Blocks, {4, 3}, ScaleFormat::kF32}), "");
}

}  // namespace
}  // namespace fulgurite::head_projection
