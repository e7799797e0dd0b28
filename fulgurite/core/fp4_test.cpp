// e2m1 and e8m0 against their definitions, every code; the matrices made of them, element by element; and
// what encode.h promises of the way back.

#include "fulgurite/core/fp4.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "fulgurite/core/encode.h"
#include "fulgurite/core/random.h"

namespace fulgurite {
namespace {

// sign, 2 exponent bits with bias 1, 1 fraction bit; exponent 0 is subnormal.
double e2m1_by_definition(int code) {
  const int exponent = (code >> 1) & 3, fraction = code & 1;
  const double magnitude = exponent == 0 ? fraction / 2.0 : std::ldexp(1.0 + fraction / 2.0, exponent - 1);
  return (code & 8) != 0 ? -magnitude : magnitude;
}

TEST(e2m1, each_of_the_16_codes_has_the_value_of_its_definition) {
  for (int code = 0; code < 16; ++code) {
    const float value = to_float(e2m1{static_cast<uint8_t>(code)});
    EXPECT_EQ(value, e2m1_by_definition(code)) << code;
    EXPECT_EQ(std::signbit(value), code >= 8) << code;
    EXPECT_EQ(to_e2m1(value).bits, code);
  }
}

TEST(e2m1, rounds_to_the_nearest_with_ties_to_the_even_code_and_saturates) {
  const auto rounded = [](float value) { return to_float(to_e2m1(value)); };
  for (int code = 0; code < 7; ++code) {
    const double low = e2m1_by_definition(code), high = e2m1_by_definition(code + 1), tie = (low + high) / 2;
    EXPECT_EQ(rounded(static_cast<float>(tie)), code % 2 == 0 ? low : high) << tie;
    EXPECT_EQ(rounded(-std::nextafter(static_cast<float>(tie), 0.0f)), -low);
    EXPECT_EQ(rounded(std::nextafter(static_cast<float>(tie), 9.0f)), high);
  }
  EXPECT_EQ(rounded(1e30f), 6.0f);
  EXPECT_EQ(rounded(-INFINITY), -6.0f);
}

TEST(e2m1, the_even_column_is_in_the_low_half_of_a_byte) {
  for (int byte = 0; byte < 256; ++byte) {
    const e2m1x2 pair{static_cast<uint8_t>(byte)};
    EXPECT_EQ(unpack(pair, 0).bits, byte & 15);
    EXPECT_EQ(unpack(pair, 7).bits, byte >> 4);
    EXPECT_EQ(pack(unpack(pair, 2), unpack(pair, 3)).bits, byte);
  }
}

TEST(e8m0, each_of_the_256_codes_has_the_value_of_its_definition) {
  for (int code = 0; code < 255; ++code) {
    const e8m0 scale{static_cast<uint8_t>(code)};
    EXPECT_EQ(static_cast<double>(to_float(scale)), std::ldexp(1.0, code - 127)) << code;
    ASSERT_TRUE(exact_e8m0(to_float(scale)));
    EXPECT_EQ(exact_e8m0(to_float(scale))->bits, code);
  }
  EXPECT_TRUE(std::isnan(to_float(e8m0{255})));
}

TEST(e8m0, what_is_no_power_of_two_has_no_code) {
  for (const float value : {0.0f, -1.0f, 3.0f, 120.0f, 0x1p-128f, 0x1.8p-127f, INFINITY, -INFINITY, NAN,
                            std::nextafter(1.0f, 2.0f), std::nextafter(2.0f, 1.0f)})
    EXPECT_FALSE(exact_e8m0(value)) << value;
}

TEST(matrix, the_exact_value_of_each_form_is_code_times_scale) {
  const e4m3 codes[] = {{0x38}, {0xB8}, {0x40}, {0x7E}};  // 1, -1; 2, 448
  const e8m0 exponents[] = {{120}, {130}};                // 2^-7, 2^3
  const BlockScaled blocks{{codes, {2, 2}}, {}, {1, kWhole}, ScaleFormat::kE8M0, {exponents, {2, 1}}};
  EXPECT_EQ(exact_element(StoredMatrix{blocks, 2, 2}, 0, 1), -0x1p-7);
  EXPECT_EQ(exact_element(StoredMatrix{blocks, 2, 2}, 1, 1), 448.0 * 8);

  std::vector<e2m1x2> pairs(32, e2m1x2{0x52});  // 1 and 3
  const e8m0 scales[] = {{127}, {126}};
  const Mxfp4 mxfp4{{pairs.data(), {1, 32}}, {scales, {1, 2}}};
  EXPECT_EQ(exact_element(StoredMatrix{mxfp4, 1, 64}, 0, 31), 3.0);
  EXPECT_EQ(exact_element(StoredMatrix{mxfp4, 1, 64}, 0, 32), 0.5);

  const e4m3 fine[] = {{0x38}, {0x3C}, {0x40}, {0x01}};  // 1, 1.5, 2, 2^-9
  const float global = 0x1.000002p-3f;
  const Nvfp4 nvfp4{{pairs.data(), {1, 32}}, {fine, {1, 4}}, {&global, {1}}};
  EXPECT_EQ(exact_element(StoredMatrix{nvfp4, 1, 64}, 0, 17), 3.0 * 1.5 * global);
  EXPECT_EQ(exact_element(StoredMatrix{nvfp4, 1, 64}, 0, 48), 0x1p-9 * global);
  float decoded[64];
  decode(PreparedMatrix{nvfp4, 1, 64}, 0, 15, 4, decoded);
  EXPECT_EQ(decoded[2], static_cast<float>(3.0 * 1.5 * global)) << "rounded once";
}

TEST(matrix, forms_describe_themselves) {
  EXPECT_EQ(describe(MatrixFormat{MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kE8M0}),
            "e4m3 128x128, scales e8m0");
  EXPECT_EQ(describe(MatrixFormat{MatrixForm::kE4M3Blocks, {1, kWhole}, ScaleFormat::kF32}),
            "e4m3 per channel, scales f32");
  EXPECT_EQ(describe(MatrixFormat{MatrixForm::kE4M3Blocks, {kWhole, kWhole}, ScaleFormat::kF32}),
            "e4m3 per tensor, scales f32");
  EXPECT_EQ(describe(format_of(StoredMatrix{Mxfp4{}, 0, 0})), "e2m1 1x32, scales e8m0");
  EXPECT_EQ(describe(format_of(StoredMatrix{Nvfp4{}, 0, 0})), "e2m1 1x16, scales e4m3 x f32");
}

TEST(matrix, rows_of_a_matrix_are_a_matrix_with_the_same_elements) {
  std::vector<e4m3> codes(136 * 3);
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = {static_cast<uint8_t>(i * 7 % 127)};
  const float scales[] = {0.5f, 4.0f, 0.25f, 8.0f};
  const StoredMatrix whole{
      BlockScaled{{codes.data(), {136, 3}}, {scales, {2, 2}}, {128, 2}, ScaleFormat::kF32, {}}, 136, 3};
  const StoredMatrix first = rows_of(whole, 0, 128), rest = rows_of(whole, 128, 8);
  EXPECT_EQ(rest.out, 8);
  for (int64_t c = 0; c < 3; ++c) {
    EXPECT_EQ(exact_element(first, 127, c), exact_element(whole, 127, c));
    for (int64_t r = 0; r < 8; ++r) EXPECT_EQ(exact_element(rest, r, c), exact_element(whole, 128 + r, c));
  }
}

MatrixValues values_of(const StoredMatrix& matrix) {
  return {matrix.out, matrix.in, [matrix](int64_t row, double* out) {
            for (int64_t i = 0; i < matrix.in; ++i) out[i] = exact_element(matrix, row, i);
          }};
}

template <class T>
std::vector<T> elements(const std::vector<std::byte>& bytes) {
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

// Whatever codes a block has and whatever powers of two scale it, from 2^-110 to 2^100.
TEST(encode, e4m3_values_with_powers_of_two_come_back_and_so_do_codes_above_224) {
  Random random(1);
  constexpr int64_t kOut = 70, kIn = 100;
  std::vector<e4m3> codes(kOut * kIn);
  std::vector<float> scales(3 * 4);
  for (float& scale : scales) scale = std::ldexp(1.0f, static_cast<int>(random.below(210)) - 110);
  for (int64_t i = 0; i < kOut * kIn; ++i) {
    const bool small = (i / kIn / 32 + i % kIn / 32) % 2 == 0;  // every second block stays below 2
    codes[static_cast<size_t>(i)] = {
        static_cast<uint8_t>(random.below(small ? 0x40 : 0x7F) | random.below(2) << 7)};
  }
  for (int64_t b = 0; b < 12; ++b)
    if ((b / 4 + b % 4) % 2 != 0) codes[static_cast<size_t>(b / 4 * 32 * kIn + b % 4 * 32)] = {0x7E};
  const StoredMatrix stored{
      BlockScaled{{codes.data(), {kOut, kIn}}, {scales.data(), {3, 4}}, {32, 32}, ScaleFormat::kF32, {}},
      kOut, kIn};
  const EncodedMatrix again =
      encode_e4m3(values_of(stored), {32, 32}, ScaleFormat::kE8M0, ScaleRounding::kPow2);
  const std::vector<e4m3> new_codes = elements<e4m3>(again.data);
  const std::vector<e8m0> exponents = elements<e8m0>(again.scale);
  const StoredMatrix made{
      BlockScaled{
          {new_codes.data(), {kOut, kIn}}, {}, {32, 32}, ScaleFormat::kE8M0, {exponents.data(), {3, 4}}},
      kOut, kIn};
  int64_t kept = 0;
  for (int64_t r = 0; r < kOut; ++r)
    for (int64_t c = 0; c < kIn; ++c) {
      ASSERT_EQ(exact_element(made, r, c), exact_element(stored, r, c)) << r << ", " << c;
      if ((r / 32 + c / 32) % 2 == 0) continue;
      ++kept;
      ASSERT_EQ(new_codes[static_cast<size_t>(r * kIn + c)].bits,
                codes[static_cast<size_t>(r * kIn + c)].bits);
      ASSERT_EQ(to_float(exponents[static_cast<size_t>(r / 32 * 4 + c / 32)]),
                scales[static_cast<size_t>(r / 32 * 4 + c / 32)]);
    }
  EXPECT_GT(kept, 1000);
}

TEST(encode, zeros_and_what_is_no_number_have_a_scale_of_one) {
  const MatrixValues zeros{1, 2, [](int64_t, double* out) { out[0] = out[1] = 0.0; }};
  const MatrixValues bad{1, 2, [](int64_t, double* out) { out[0] = 1.0, out[1] = NAN; }};
  EXPECT_EQ(elements<float>(encode_e4m3(zeros, {1, 2}, ScaleFormat::kF32, ScaleRounding::kNone).scale)[0],
            1.0f);
  const EncodedMatrix nan = encode_e4m3(bad, {1, 2}, ScaleFormat::kF32, ScaleRounding::kNone);
  EXPECT_EQ(elements<float>(nan.scale)[0], 1.0f);
  EXPECT_TRUE(std::isnan(to_float(elements<e4m3>(nan.data)[0])));
}

// Half a step of the codes, and for NVFP4 that of its scale.
TEST(encode, fp4_is_within_its_steps) {
  Random random(2);
  std::vector<double> x(64);
  for (double& value : x) value = random.normal() * 0.02;
  const MatrixValues values{1, 64, [&](int64_t, double* out) { std::ranges::copy(x, out); }};
  const EncodedMatrix mx = encode_mxfp4(values), nv = encode_nvfp4(values);
  const auto mx_codes = elements<e2m1x2>(mx.data);
  const auto nv_codes = elements<e2m1x2>(nv.data);
  const auto mx_scales = elements<e8m0>(mx.scale);
  const auto nv_scales = elements<e4m3>(nv.scale);
  const auto global = elements<float>(nv.global);
  ASSERT_EQ(mx_scales.size(), 2u);
  ASSERT_EQ(nv_scales.size(), 4u);
  const StoredMatrix mxfp4{Mxfp4{{mx_codes.data(), {1, 32}}, {mx_scales.data(), {1, 2}}}, 1, 64};
  const StoredMatrix nvfp4{
      Nvfp4{{nv_codes.data(), {1, 32}}, {nv_scales.data(), {1, 4}}, {global.data(), {1}}}, 1, 64};
  for (int64_t i = 0; i < 64; ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_NEAR(exact_element(mxfp4, 0, i), x[at], to_float(mx_scales[at / 32]));
    const double step = static_cast<double>(to_float(nv_scales[at / 16])) * global[0];
    EXPECT_NEAR(exact_element(nvfp4, 0, i), x[at], step * (1 + 6 * 0.07));
  }
}

}  // namespace
}  // namespace fulgurite
