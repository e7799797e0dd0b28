#include "fulgurite/ops/embedding/embedding.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/ops/embedding/embedding_audit.h"
#include "fulgurite/ops/embedding/embedding_cases.h"
#include "test/op_test.h"

namespace fulgurite::embedding {
namespace {

using inputs::TensorBuffer;

constexpr MatrixFormat kF32{MatrixForm::kF32, {}, ScaleFormat::kF32};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};
constexpr DType kActivations[] = {DType::kF32, DType::kBF16, DType::kF16};

Problem problem_of(const Case& shape, const MatrixFormat& format, DType activation,
                   Isa isa = cpu::best_isa()) {
  return {test::setting_of(activation, isa), shape.vocabulary, shape.hidden, format};
}

DType activation_of(const Problem& problem) { return activation_type(problem.setting.numerics); }

std::vector<int32_t> make_ids(Random& random, const Case& shape) {
  std::vector<int32_t> ids;
  for (int64_t t = 0; t < shape.tokens; ++t)
    ids.push_back(static_cast<int32_t>(random.below(shape.vocabulary)));
  return ids;
}
View<const int32_t, 1> view_of(const std::vector<int32_t>& ids) {
  return {ids.data(), {static_cast<int64_t>(ids.size())}};
}

TensorBuffer<2> make_out(const Problem& problem, const std::vector<int32_t>& ids) {
  return inputs::unwritten<2>(activation_of(problem), {static_cast<int64_t>(ids.size()), problem.hidden});
}

std::vector<float> result(const Implementation& implementation, const Problem& problem,
                          const std::vector<int32_t>& ids, const PreparedMatrix& table, int threads = 1) {
  const TensorBuffer<2> out = make_out(problem, ids);
  test::run(implementation, problem, Args{view_of(ids), &table, out.view}, threads);
  return out.values();
}

TEST(embedding, agrees_with_the_reference_for_any_threads_and_instruction_set) {
  for (const Case& shape : kCases) {
    for (const MatrixFormat& format : {kF32, kBF16}) {
      for (const DType activation : kActivations) {
        SCOPED_TRACE(fmt::format("{}, {} to {}, seed 1", shape.what, describe(format), name(activation)));
        Random random(1);
        const std::vector<int32_t> ids = make_ids(random, shape);
        const inputs::Weight table = inputs::make_weight(random, shape.vocabulary, shape.hidden, format);
        const Problem best = problem_of(shape, format, activation);
        const TensorBuffer<2> out = make_out(best, ids);
        EXPECT_TRUE(judge(kCpu, best, {view_of(ids), &table.matrix, out.view}, {}).within());
        for (const Isa isa : test::machine_isas())
          for (const int threads : {1, 2, 3})
            EXPECT_TRUE(test::identical(
                result(kCpu, problem_of(shape, format, activation, isa), ids, table.matrix, threads),
                out.values()));
      }
    }
  }
}

TEST(embedding, is_split_among_threads_where_there_is_enough_to_copy) {
  const Case shape{"", 64, 9, 1000};
  Random random(3);
  const std::vector<int32_t> ids = make_ids(random, shape);
  const inputs::Weight table = inputs::make_weight(random, 9, 1000, kF32);
  const Problem problem = problem_of(shape, kF32, DType::kBF16);
  EXPECT_TRUE(test::identical(result(kCpu, problem, ids, table.matrix, 3),
                              result(kReference, problem, ids, table.matrix)));
}

TEST(embedding, a_repeated_id_repeats_its_row_and_NaN_stays_in_it) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float rows[] = {1.0f, -0.0f, nan, 4.0f, 5.0f, 6.0f};
  const PreparedMatrix table{View<const float, 2>(rows, {3, 2}), 3, 2};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    for (const DType activation : kActivations) {
      const std::vector<float> out =
          result(*row, problem_of({"", 4, 3, 2}, kF32, activation), {2, 0, 1, 2}, table);
      EXPECT_TRUE(test::identical({&out[0], 4}, std::vector<float>{5.0f, 6.0f, 1.0f, -0.0f}));
      EXPECT_TRUE(std::isnan(out[4]));
      EXPECT_TRUE(test::identical({&out[5], 3}, std::vector<float>{4.0f, 5.0f, 6.0f}));
    }
  }
}

// The next bf16 after 1 is 1 + 2^-7: ties go to the even one.
TEST(embedding, rows_of_f32_are_rounded_once_where_activations_are_bf16) {
  const float inf = std::numeric_limits<float>::infinity();
  const float rows[] = {1.0f + 0x1p-8f, 1.0f + 0x1.8p-7f, 1.0f + 0x1.01p-8f, 3.4e38f, 0x1p-133f};
  const PreparedMatrix table{View<const float, 2>(rows, {1, 5}), 1, 5};
  for (const Implementation* const row : {&kReference, &kCpu}) {
    EXPECT_EQ(result(*row, problem_of({"", 1, 1, 5}, kF32, DType::kBF16), {0}, table),
              (std::vector<float>{1.0f, 1.0f + 0x1p-6f, 1.0f + 0x1p-7f, inf, 0x1p-133f}));
    EXPECT_EQ(result(*row, problem_of({"", 1, 1, 5}, kF32, DType::kF32), {0}, table),
              std::vector<float>(rows, rows + 5));
  }
}

// The next fp16 after 1 is 1 + 2^-10; denormals are kept, and a table beyond 65504 overflows.
TEST(embedding, rows_are_rounded_once_where_activations_are_fp16) {
  const float inf = std::numeric_limits<float>::infinity();
  const float rows[] = {1.0f + 0x1p-11f, 1.0f + 0x1.8p-10f, 65519.0f, -65520.0f, 0x1.8p-24f};
  const PreparedMatrix table{View<const float, 2>(rows, {1, 5}), 1, 5};
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(result(*row, problem_of({"", 1, 1, 5}, kF32, DType::kF16), {0}, table),
              (std::vector<float>{1.0f, 1.0f + 0x1p-9f, 65504.0f, -inf, 0x1p-23f}));
}

TEST(embedding, the_audit_sees_a_row_that_is_not_the_id_s) {
  Random random(4);
  const inputs::Weight table = inputs::make_weight(random, 3, 4, kBF16);
  const Problem problem = problem_of({"", 2, 3, 4}, kBF16, DType::kBF16);
  const std::vector<int32_t> ids{0, 2};
  const TensorBuffer<2> out = make_out(problem, ids);
  Implementation wrong = kReference;
  wrong.run = [](const Problem& p, const Args& args, const Lane& lane) {
    kReference.run(p, args, lane);
    store(args.out, load(args.out, int64_t{1}, int64_t{3}) * 1.01f, int64_t{1}, int64_t{3});
  };
  const audit::OpReport report = judge(wrong, problem, {view_of(ids), &table.matrix, out.view}, {});
  EXPECT_EQ(report.outputs[0].difference.beyond, 1);
  EXPECT_EQ(report.outputs[0].difference.worst, 7);
}

TEST(embedding, names_the_tensor_and_the_id_that_break_the_contract) {
  Random random(2);
  const Problem problem = problem_of({"", 2, 3, 4}, kBF16, DType::kF32);
  const inputs::Weight table = inputs::make_weight(random, 3, 4, kBF16);
  const TensorBuffer<2> out = inputs::unwritten<2>(DType::kF32, {2, 4});
  const auto message = [&](const std::vector<int32_t>& ids, const Tensor<2>& to) {
    return test::message_of([&] { check(problem, {view_of(ids), &table.matrix, to}); });
  };
  EXPECT_EQ(message({0, 2}, out.view), "");
  EXPECT_EQ(message({0}, out.view), "embedding: out: expected shape [1, 4], found [2, 4]");
  EXPECT_EQ(message({0, 2}, out.view.slice(1, 0, 3)), "embedding: out: expected shape [2, 4], found [2, 3]");
  EXPECT_EQ(message({0, 3}, out.view), "embedding: ids: expected a value in [0, 2], found 3");
  EXPECT_EQ(message({-1, 0}, out.view), "embedding: ids: expected a value in [0, 2], found -1");
}

TEST(embedding, refuses_tables_that_it_does_not_read) {
  const Problem blocks =
      problem_of({"", 1, 1, 1}, {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32}, DType::kF32);
  for (const Implementation* const row : {&kReference, &kCpu})
    EXPECT_EQ(test::refusal(*row, blocks), "table = e4m3 128x128, scales f32, takes f32 or bf16");
}

}  // namespace
}  // namespace fulgurite::embedding
