#include "fulgurite/core/encoding_error.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

constexpr MatrixFormat kRowBlocks{MatrixForm::kE4M3Blocks, {1, 2}, ScaleFormat::kE8M0};
constexpr MatrixFormat kBF16{MatrixForm::kBF16, {}, ScaleFormat::kF32};

std::vector<std::byte> bytes_of(std::initializer_list<int> values) {
  std::vector<std::byte> bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

MatrixValues rows_of_two(const std::vector<double>& x) {
  return {static_cast<int64_t>(x.size()) / 2, 2,
          [&x](int64_t row, double* out) { std::copy_n(x.begin() + row * 2, 2, out); }};
}

// Two rows of two, a scale each: 500 is beyond 448, 1/4096 rounds to no code of scale 1.
TEST(encoding_error, is_counted_and_measured_element_by_element) {
  const std::vector<double> x{0x1p-12, 4.0, 500.0, 3.0};
  const EncodedMatrix encoded{bytes_of({0x00, 0x48, 0x7E, 0x44}), bytes_of({127, 127}), {}};
  const EncodingError error = encoding_error(rows_of_two(x), view_of(encoded, kRowBlocks, 2, 2));
  EXPECT_EQ(error.saturated, 1);
  EXPECT_EQ(error.flushed, 1);
  EXPECT_DOUBLE_EQ(error.worst_block, 52.0 / std::sqrt(500.0 * 500.0 + 9.0));
  EXPECT_EQ(error.worst_row, 1);
  EXPECT_EQ(error.worst_column, 0);
  EXPECT_DOUBLE_EQ(error.relative,
                   std::sqrt(52.0 * 52.0 + 0x1p-24) / std::sqrt(500.0 * 500.0 + 9.0 + 16.0 + 0x1p-24));
  EXPECT_TRUE(error.any());
}

TEST(encoding_error, of_what_is_kept_exactly_is_zero) {
  const std::vector<double> x{-448.0, 1.0, 0.0, 0.0};
  const EncodedMatrix encoded{bytes_of({0xFE, 0x38, 0x00, 0x80}), bytes_of({127, 120}), {}};
  const EncodingError error = encoding_error(rows_of_two(x), view_of(encoded, kRowBlocks, 2, 2));
  EXPECT_FALSE(error.any());
  EXPECT_EQ(error.worst_block, 0.0);
  EXPECT_EQ(error.saturated + error.flushed, 0);
}

TEST(encoding_error, a_value_that_became_NaN_is_not_passed_over_and_one_that_was_is) {
  const EncodedMatrix encoded{bytes_of({0x7F, 0x38, 0x38, 0x38}), bytes_of({127, 127}), {}};
  const StoredMatrix made = view_of(encoded, kRowBlocks, 2, 2);
  const std::vector<double> finite{1.0, 1.0, 1.0, 1.5}, nan{NAN, 1.0, 1.0, 1.0};
  EXPECT_TRUE(std::isnan(encoding_error(rows_of_two(finite), made).relative));
  EXPECT_TRUE(std::isnan(encoding_error(rows_of_two(finite), made).worst_block));
  EXPECT_TRUE(encoding_error(rows_of_two(finite), made).any());
  EXPECT_EQ(encoding_error(rows_of_two(nan), made).relative, 0.0);
}

TEST(encoding_error, an_infinity_of_bf16_counts_as_saturated) {
  const std::vector<double> x{3.39e38, 1.0};
  const EncodedMatrix encoded = encode_bf16(rows_of_two(x));
  const EncodingError error = encoding_error(rows_of_two(x), view_of(encoded, kBF16, 1, 2));
  EXPECT_EQ(error.saturated, 0);  // to the nearest, which is finite
  const std::vector<double> beyond{3.4e38, 1.0};
  const EncodingError infinite =
      encoding_error(rows_of_two(beyond), view_of(encode_bf16(rows_of_two(beyond)), kBF16, 1, 2));
  EXPECT_EQ(infinite.saturated, 1);
  EXPECT_TRUE(std::isnan(infinite.relative) || std::isinf(infinite.relative));
}

// Of normal values: three fraction bits lose about 2.6 %, one fraction bit about 10 %. A scale that covers
// the block's largest value saturates nothing.
TEST(encoding_error, of_each_encoder_is_what_its_codes_can_hold) {
  Random random(1);
  std::vector<double> x(64 * 128);
  for (double& value : x) value = random.normal();
  const MatrixValues values{64, 128,
                            [&](int64_t row, double* out) { std::copy_n(x.begin() + row * 128, 128, out); }};
  const auto error = [&](const EncodedMatrix& encoded, const MatrixFormat& format) {
    return encoding_error(values, view_of(encoded, format, 64, 128));
  };
  const auto e4m3 = error(encode_e4m3(values, {32, 32}, ScaleFormat::kF32, ScaleRounding::kNone),
                          {MatrixForm::kE4M3Blocks, {32, 32}, ScaleFormat::kF32});
  EXPECT_NEAR(e4m3.relative, 0.026, 0.004);
  EXPECT_EQ(e4m3.saturated, 0);
  const auto mxfp4 = error(encode_mxfp4(values), {MatrixForm::kMxfp4, {1, 32}, ScaleFormat::kE8M0});
  EXPECT_NEAR(mxfp4.relative, 0.12, 0.03);
  EXPECT_EQ(mxfp4.saturated, 0);
  EXPECT_GT(mxfp4.flushed, 0);
  // The scale is itself an e4m3, to the nearest: the largest value of a group may lie beyond its code.
  const auto nvfp4 = error(encode_nvfp4(values), {MatrixForm::kNvfp4, {1, 16}, ScaleFormat::kE4M3});
  EXPECT_NEAR(nvfp4.relative, 0.095, 0.02);
  EXPECT_GT(nvfp4.saturated, 0);
  EXPECT_LT(nvfp4.relative, mxfp4.relative);
  for (const EncodingError& one : {e4m3, mxfp4, nvfp4}) EXPECT_GT(one.worst_block, one.relative);
}

}  // namespace
}  // namespace fulgurite
