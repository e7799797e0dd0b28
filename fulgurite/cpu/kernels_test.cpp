#include "fulgurite/cpu/kernels.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

std::vector<float> normals(uint64_t seed, int64_t count) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random.normal());
  return values;
}

TEST(kernels, every_build_decodes_all_256_codes_as_the_definition_does) {
  std::vector<uint8_t> codes(256 + 7);
  std::iota(codes.begin(), codes.end(), uint8_t{0});
  for (const Isa isa : test::machine_isas()) {
    for (const float scale : {1.0f, 0x1p-12f, 0.37f, 0x1p-140f}) {
      std::vector<float> values(codes.size());
      kernels(isa).decode_e4m3(codes.data(), static_cast<int64_t>(codes.size()), scale, values.data());
      for (size_t i = 0; i < codes.size(); ++i) {
        const float expected = to_float(e4m3{codes[i]}) * scale;
        if (std::isnan(expected))
          EXPECT_TRUE(std::isnan(values[i])) << name(isa) << " code " << i;
        else
          EXPECT_EQ(values[i], expected) << name(isa) << " code " << i;
      }
    }
  }
}

TEST(kernels, every_build_widens_all_bf16) {
  std::vector<uint16_t> codes(65536);
  std::iota(codes.begin(), codes.end(), uint16_t{0});
  std::vector<float> values(codes.size());
  for (const Isa isa : test::machine_isas()) {
    kernels(isa).decode_bf16(codes.data(), 65535, values.data());
    for (size_t i = 0; i < 65535; ++i)
      ASSERT_EQ(std::bit_cast<uint32_t>(values[i]), static_cast<uint32_t>(i) << 16) << name(isa);
  }
}

// The definition of dot in kernels.h, in plain words.
float sixteen_lanes(const float* x, const float* w, int64_t width) {
  float lanes[16] = {};
  for (int64_t i = 0; i < width; ++i) lanes[i % 16] = lanes[i % 16] + x[i] * w[i];
  for (int stride = 8; stride >= 1; stride /= 2)
    for (int i = 0; i < stride; ++i) lanes[i] = lanes[i] + lanes[i + stride];
  return lanes[0];
}

TEST(kernels, dot_is_sixteen_lanes_and_a_tree_in_every_build) {
  for (const int64_t width : {0, 1, 15, 16, 17, 64, 129, 1000}) {
    const int64_t rows = 11, columns = 7, stride = width + 3;
    const auto x = normals(1, rows * stride + 1), w = normals(2, columns * stride + 1);
    for (const Isa isa : test::machine_isas()) {
      std::vector<float> y(static_cast<size_t>(rows * columns));
      kernels(isa).dot_rows({x.data(), stride, rows}, {w.data(), stride, columns}, width, y.data(), columns);
      for (int64_t a = 0; a < rows; ++a)
        for (int64_t b = 0; b < columns; ++b)
          EXPECT_EQ(
              y[static_cast<size_t>(a * columns + b)],
              sixteen_lanes(&x[static_cast<size_t>(a * stride)], &w[static_cast<size_t>(b * stride)], width))
              << name(isa) << " width " << width << " at " << a << ", " << b;
    }
  }
}

TEST(kernels, dots_in_double_are_eight_lanes_and_a_tree_in_every_build) {
  for (const int64_t width : {0, 1, 7, 8, 9, 256, 1000}) {
    const int64_t rows = 6, columns = 5, stride = width + 3;
    const auto x = normals(7, rows * stride + 1), w = normals(8, columns * stride + 1);
    for (const Isa isa : test::machine_isas()) {
      std::vector<double> y(static_cast<size_t>(rows * columns));
      kernels(isa).dot_rows_in_double({x.data(), stride, rows}, {w.data(), stride, columns}, width, y.data(),
                                      columns);
      for (int64_t i = 0; i < rows * columns; ++i) {
        double lanes[8] = {};
        for (int64_t c = 0; c < width; ++c)
          lanes[c % 8] += static_cast<double>(x[static_cast<size_t>(i / columns * stride + c)]) *
                          static_cast<double>(w[static_cast<size_t>(i % columns * stride + c)]);
        for (int step = 4; step >= 1; step /= 2)
          for (int l = 0; l < step; ++l) lanes[l] = lanes[l] + lanes[l + step];
        EXPECT_EQ(y[static_cast<size_t>(i)], lanes[0]) << name(isa) << " width " << width << " at " << i;
      }
    }
  }
}

TEST(kernels, rows_may_be_named_by_an_index) {
  const auto x = normals(3, 40 * 20), w = normals(4, 20);
  const std::vector<int32_t> index{39, 0, 7, 7, 12};
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> y(index.size());
    kernels(isa).dot_rows({x.data(), 20, 5, index.data()}, {w.data(), 20, 1}, 20, y.data(), 1);
    for (size_t i = 0; i < index.size(); ++i)
      EXPECT_EQ(y[i], sixteen_lanes(&x[static_cast<size_t>(index[i]) * 20], w.data(), 20));
  }
}

TEST(kernels, combine_adds_rows_in_order_in_every_build) {
  for (const int64_t width : {1, 16, 63, 64, 65, 200}) {
    const int64_t outputs = 5, rows = 9;
    const auto p = normals(5, outputs * rows * 2), w = normals(6, rows * width);
    for (const Isa isa : test::machine_isas()) {
      std::vector<float> y(static_cast<size_t>(outputs * width));
      kernels(isa).combine_rows(p.data(), rows * 2, 2, outputs, {w.data(), width, rows}, width, y.data(),
                                width);
      for (int64_t a = 0; a < outputs; ++a) {
        for (int64_t c = 0; c < width; ++c) {
          float sum = 0.0f;
          for (int64_t j = 0; j < rows; ++j)
            sum = sum + w[static_cast<size_t>(j * width + c)] * p[static_cast<size_t>(a * rows * 2 + j * 2)];
          EXPECT_EQ(y[static_cast<size_t>(a * width + c)], sum) << name(isa) << " width " << width;
        }
      }
    }
  }
}

TEST(kernels, the_gate_stays_within_its_bound_and_gives_the_same_bits_in_every_build) {
  std::vector<float> gate, up;
  for (int i = -4200; i < 4201; ++i) gate.push_back(static_cast<float>(i) * 0.03f);
  for (size_t i = 0; i < gate.size(); ++i) up.push_back(i % 2 == 0 ? 1.0f : -2.0f);
  const auto count = static_cast<int64_t>(gate.size());
  std::vector<float> first;
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> out(gate);
    kernels(isa).silu_mul(out.data(), up.data(), count, out.data());
    if (first.empty()) first = out;
    EXPECT_TRUE(test::identical(out, first)) << name(isa);
  }
  for (size_t i = 0; i < gate.size(); ++i) {
    const double exact =
        gate[i] / (1.0 + std::exp(-static_cast<double>(gate[i]))) * static_cast<double>(up[i]);
    EXPECT_NEAR(first[i], exact, 6 * 0x1p-24 * std::abs(exact) + 0x1p-140) << gate[i];
  }
}

TEST(kernels, the_gate_keeps_a_NaN_and_the_ends) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const Isa isa : test::machine_isas()) {
    float gate[] = {NAN, kInfinity, -kInfinity, -1e30f, 1e30f, -0.0f};
    const float up[] = {1, 1, 1, 1, 1, 1};
    kernels(isa).silu_mul(gate, up, 6, gate);
    EXPECT_TRUE(std::isnan(gate[0]) && std::isnan(gate[2])) << name(isa);
    EXPECT_EQ(gate[1], kInfinity) << name(isa);
    EXPECT_EQ(gate[3], 0.0f) << name(isa);
    EXPECT_EQ(gate[4], 1e30f) << name(isa);
    EXPECT_TRUE(gate[5] == 0.0f && std::signbit(gate[5])) << name(isa);
  }
}

TEST(kernels, add_scaled_is_a_fused_multiply_add_in_every_build) {
  for (const int64_t count : {1, 15, 16, 33}) {
    const auto values = normals(7, count), start = normals(8, count);
    for (const Isa isa : test::machine_isas()) {
      std::vector<float> out = start;
      kernels(isa).add_scaled(values.data(), 0.3f, count, out.data());
      for (size_t i = 0; i < out.size(); ++i)
        EXPECT_EQ(out[i], std::fma(0.3f, values[i], start[i])) << name(isa) << " count " << count;
    }
  }
}

}  // namespace
}  // namespace fulgurite::cpu
