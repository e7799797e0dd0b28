#include "fulgurite/ops/embedding/embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/embedding/embedding_cases.h"
#include "test/op_test.h"

namespace fulgurite::embedding {
namespace {

using inputs::Buffer;

constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

Problem problem_of(const Case& shape, const MatrixFormat& format, Isa isa = cpu::best_isa()) {
  return {test::fp32_setting(isa), shape.vocabulary, shape.hidden, format};
}

std::vector<int32_t> make_ids(Random& random, const Case& shape) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < shape.tokens; ++t)
    ids.push_back(static_cast<int32_t>(random.below(shape.vocabulary)));
  return ids;
}
View<const int32_t, 1> view_of(const std::vector<int32_t>& ids) {
  return {ids.data(), {static_cast<int64_t>(ids.size())}};
}

std::vector<float> result(const Implementation& implementation, const Problem& problem,
                          const std::vector<int32_t>& ids, const PreparedMatrix& table, int threads = 1) {
  Random unused(0);
  Buffer<2> out =
      inputs::make(unused, inputs::Values::kConstant, static_cast<int64_t>(ids.size()), problem.hidden);
  test::run(implementation, problem, Args{view_of(ids), &table, out.view}, threads);
  return out.elements;
}

TEST(embedding, copies_the_rows_exactly_for_any_threads_and_instruction_set) {
  for (const Case& shape : kCases) {
    for (const MatrixFormat& format : {kF32, kBF16}) {
      SCOPED_TRACE(fmt::format("{}, {}, seed 1", shape.what, describe(format)));
      Random random(1);
      const std::vector<int32_t> ids = make_ids(random, shape);
      const inputs::Weight table = inputs::make_weight(random, shape.vocabulary, shape.hidden, format);
      const std::vector<float> expected = result(kReference, problem_of(shape, format), ids, table.matrix);
      for (const Isa isa : test::machine_isas())
        for (const int threads : {1, 2, 3})
          EXPECT_TRUE(test::identical(
              result(kCpu, problem_of(shape, format, isa), ids, table.matrix, threads), expected));
    }
  }
}

TEST(embedding, a_repeated_id_repeats_its_row_and_NaN_stays_in_it) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float rows[] = {1.0f, -0.0f, nan, 4.0f, 5.0f, 6.0f};
  const PreparedMatrix table{View<const float, 2>(rows, {3, 2}), 3, 2};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    const std::vector<float> out = result(*row, problem_of({"", 4, 3, 2}, kF32), {2, 0, 1, 2}, table);
    EXPECT_TRUE(test::identical({&out[0], 4}, std::vector<float>{5.0f, 6.0f, 1.0f, -0.0f}));
    EXPECT_TRUE(std::isnan(out[4]));
    EXPECT_TRUE(test::identical({&out[5], 3}, std::vector<float>{4.0f, 5.0f, 6.0f}));
  }
}

TEST(embedding, names_the_tensor_and_the_id_that_break_the_contract) {
  Random random(2);
  const Case shape{"", 2, 3, 4};
  const Problem problem = problem_of(shape, kBF16);
  const inputs::Weight table = inputs::make_weight(random, 3, 4, kBF16);
  Buffer<2> out = inputs::make(random, inputs::Values::kNormal, 2, 4);
  const auto message = [&](const std::vector<int32_t>& ids, View<float, 2> to) {
    return test::message_of([&] { check(problem, {view_of(ids), &table.matrix, to}); });
  };
  EXPECT_EQ(message({0, 2}, out.view), "");
  EXPECT_EQ(message({0}, out.view), "embedding: out: expected shape [1, 4], found [2, 4]");
  EXPECT_EQ(message({0, 2}, out.view.slice(1, 0, 3)), "embedding: out: expected shape [2, 4], found [2, 3]");
  EXPECT_EQ(message({0, 3}, out.view), "embedding: ids: expected a value in [0, 2], found 3");
  EXPECT_EQ(message({-1, 0}, out.view), "embedding: ids: expected a value in [0, 2], found -1");
}

TEST(embedding, refuses_tables_and_numerics_that_it_does_not_do) {
  Problem blocks = problem_of({"", 1, 1, 1}, {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32});
  Problem half = problem_of({"", 1, 1, 1}, kBF16);
  half.setting.numerics.activation = Activation::kBf16;
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(test::refusal(*row, blocks), "table = e4m3 128x128, scales f32, takes f32 or bf16");
    EXPECT_EQ(test::refusal(*row, half), "activation = bf16, takes fp32");
  }
}

}  // namespace
}  // namespace fulgurite::embedding
