// The operations that decode weights, over every form beyond those of their own tests: the CPU row against
// the reference, which reads exact elements.

#include <gtest/gtest.h>

#include <cmath>

#include "fulgurite/core/encode.h"
#include "fulgurite/ops/head_projection/head_projection.h"
#include "fulgurite/ops/linear/linear.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

using inputs::Buffer;
using inputs::Values;

// A prepared matrix in one of the forms, with its bytes.
struct Encoded {
  EncodedMatrix bytes;
  PreparedMatrix matrix;
};

template <class T>
View<const T, 2> view(const std::vector<std::byte>& bytes, int64_t rows, int64_t columns) {
  EXPECT_EQ(bytes.size(), static_cast<size_t>(rows * columns) * sizeof(T));
  return {reinterpret_cast<const T*>(bytes.data()), {rows, columns}};
}

std::vector<std::unique_ptr<Encoded>> every_form(int64_t out, int64_t in) {
  Random random(1);
  std::vector<double> x(static_cast<size_t>(out * in));
  for (double& value : x) value = random.normal();
  const MatrixValues values{out, in,
                            [&](int64_t row, double* to) { std::copy_n(x.begin() + row * in, in, to); }};
  std::vector<std::unique_ptr<Encoded>> forms;
  const auto add = [&](EncodedMatrix bytes) -> Encoded& {
    forms.push_back(std::make_unique<Encoded>(Encoded{std::move(bytes), {{}, out, in}}));
    return *forms.back();
  };
  const auto blocks = [](int64_t n, int64_t block) { return (n + block - 1) / block; };
  for (const BlockShape block : {BlockShape{128, 128}, {32, 32}, {1, 32}, {1, kWhole}, {kWhole, kWhole}}) {
    const int64_t rows = blocks(out, block.rows), columns = blocks(in, block.columns);
    Encoded& pow2 = add(encode_e4m3(values, block, ScaleFormat::kE8M0, ScaleRounding::kPow2));
    pow2.matrix.as = BlockScaled{view<e4m3>(pow2.bytes.data, out, in),
                                 {},
                                 block,
                                 ScaleFormat::kE8M0,
                                 view<e8m0>(pow2.bytes.scale, rows, columns)};
    Encoded& any = add(encode_e4m3(values, block, ScaleFormat::kF32, ScaleRounding::kNone));
    any.matrix.as = BlockScaled{view<e4m3>(any.bytes.data, out, in),
                                view<float>(any.bytes.scale, rows, columns),
                                block,
                                ScaleFormat::kF32,
                                {}};
  }
  Encoded& mx = add(encode_mxfp4(values));
  mx.matrix.as = Mxfp4{view<e2m1x2>(mx.bytes.data, out, in / 2), view<e8m0>(mx.bytes.scale, out, in / 32)};
  Encoded& nv = add(encode_nvfp4(values));
  nv.matrix.as = Nvfp4{view<e2m1x2>(nv.bytes.data, out, in / 2),
                       view<e4m3>(nv.bytes.scale, out, in / 16),
                       {reinterpret_cast<const float*>(nv.bytes.global.data()), {1}}};
  return forms;
}

template <class Problem, class Args>
void expect_agreement(const Implementation<Problem, Args>& cpu,
                      const Implementation<Problem, Args>& reference, const Problem& problem, Args args,
                      std::vector<float>& y, double bound) {
  test::run(reference, problem, args, 1);
  const std::vector<float> expected = y;
  std::ranges::fill(y, NAN);
  test::run(cpu, problem, args, 2);
  for (size_t i = 0; i < y.size(); ++i) ASSERT_NEAR(y[i], expected[i], bound) << i;
}

TEST(weight_forms, linear_reads_each_at_its_exact_value) {
  constexpr int64_t kTokens = 3, kOut = 133, kIn = 192;
  for (const auto& form : every_form(kOut, kIn)) {
    SCOPED_TRACE(describe(format_of(form->matrix)));
    Random random(2);
    const Buffer<2> x = inputs::make(random, Values::kNormal, kTokens, kIn);
    Buffer<2> y = inputs::make(random, Values::kConstant, kTokens, kOut);
    linear::Problem problem{};
    problem.setting = test::fp32_setting();
    problem.in = kIn;
    problem.out = kOut;
    problem.weight = format_of(form->matrix);
    expect_agreement(linear::kCpu, linear::kReference, problem, linear::Args{x.view, &form->matrix, y.view},
                     y.elements, 1e-4);
  }
}

TEST(weight_forms, head_projection_reads_each_in_both_directions) {
  constexpr int64_t kTokens = 2, kHeads = 2, kRows = 72, kLatent = 160;
  for (const auto& form : every_form(kHeads * kRows, kLatent)) {
    for (const auto direction :
         {head_projection::Direction::kFromRows, head_projection::Direction::kToRows}) {
      SCOPED_TRACE(describe(format_of(form->matrix)));
      Random random(3);
      const bool from_rows = direction == head_projection::Direction::kFromRows;
      head_projection::Problem problem{};
      problem.setting = test::fp32_setting();
      problem.direction = direction;
      problem.heads = kHeads;
      problem.rows_per_head = kRows;
      problem.first_row = 30;
      problem.rows = 42;
      problem.latent = kLatent;
      problem.weight = format_of(form->matrix);
      const int64_t in = from_rows ? problem.rows : kLatent, out = from_rows ? kLatent : problem.rows;
      const Buffer<3> x = inputs::make(random, Values::kNormal, kTokens, kHeads, in);
      Buffer<3> y = inputs::make(random, Values::kConstant, kTokens, kHeads, out);
      expect_agreement(head_projection::kCpu, head_projection::kReference, problem,
                       head_projection::Args{x.view, &form->matrix, y.view}, y.elements, 1e-4);
    }
  }
}

}  // namespace
}  // namespace fulgurite
