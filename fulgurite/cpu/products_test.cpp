// Kernels::products and head_sums of every build, against the sums written out.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr float kUntouched = -12345.0f;

// Where operands and sums of a call lie.
struct Shape {
  int64_t rows, pairs, panels;
  int64_t row_stride, row_pair_stride;      // in elements
  int64_t panel_stride, panel_pair_stride;  // in pairs
};

Shape rows_beside_each_other(int64_t rows, int64_t pairs, int64_t panels) {
  return {rows, pairs, panels, 2 * pairs + 1, 2, pairs * 16, 16};
}

int64_t extent(int64_t count, int64_t stride, int64_t inner) {
  return count == 0 ? 0 : (count - 1) * stride + inner;
}

// One call's memory, each buffer exactly as large as what may be read. Left operands begin at an odd element.
struct Call {
  Shape shape;
  std::vector<uint16_t> left;
  std::vector<uint32_t> right;
  std::vector<float> row_factors, lane_factors;

  template <class Value>
  Call(const Shape& of, const Value& value) : shape(of) {
    const int64_t row = extent(of.pairs, of.row_pair_stride, 2),
                  panel = extent(of.pairs, of.panel_pair_stride, 16);
    left.resize(static_cast<size_t>(1 + (of.pairs ? extent(of.rows, of.row_stride, row) : 0)));
    right.resize(static_cast<size_t>(of.pairs ? extent(of.panels, of.panel_stride, panel) : 0));
    for (uint16_t& element : left) element = to_bf16(value()).bits;
    for (uint32_t& pair : right)
      pair = to_bf16(value()).bits | static_cast<uint32_t>(to_bf16(value()).bits) << 16;
    for (int64_t i = 0; i < of.rows; ++i) row_factors.push_back(value());
    for (int64_t i = 0; i < 16 * of.panels; ++i) lane_factors.push_back(value());
  }
  PairRows rows() const { return {left.data() + 1, shape.row_stride, shape.row_pair_stride, shape.rows}; }
  Panels panels() const { return {right.data(), shape.panel_stride, shape.panel_pair_stride, shape.panels}; }
  int64_t stride() const { return shape.panels * 16 + 3; }
};

float flushed(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

float half(uint32_t pair, int which) { return to_float(bf16{static_cast<uint16_t>(pair >> (16 * which))}); }

enum class Denormals { kKept, kFlushed };

// The definition in kernels.h.
float sum_of_products(const Call& call, int64_t i, int64_t j, int64_t lane, float sum, Denormals denormals) {
  const auto seen = [&](float value) { return denormals == Denormals::kFlushed ? flushed(value) : value; };
  for (int64_t p = 0; p < call.shape.pairs; ++p) {
    const uint16_t* a = call.rows().base + i * call.shape.row_stride + p * call.shape.row_pair_stride;
    const uint32_t b = call.right[static_cast<size_t>(j * call.shape.panel_stride +
                                                      p * call.shape.panel_pair_stride + lane)];
    for (const int which : {1, 0})
      sum = seen(std::fma(seen(to_float(bf16{a[which]})), seen(half(b, which)), seen(sum)));
  }
  return sum;
}

float expected(const Call& call, int64_t i, int64_t column, float there, Ending ending, Denormals denormals) {
  const float sum = sum_of_products(call, i, column / 16, column % 16,
                                    ending == Ending::kAccumulate ? there : 0.0f, denormals);
  if (ending != Ending::kPromote) return sum;
  const float factor =
      call.row_factors[static_cast<size_t>(i)] * call.lane_factors[static_cast<size_t>(column)];
  return std::fma(sum, factor, there);
}

std::vector<float> sums_of(const Call& call, Isa isa, Ending ending, std::vector<float> sums) {
  kernels(isa).products(
      call.rows(), call.shape.pairs, call.panels(),
      {sums.data(), call.stride(), ending, call.row_factors.data(), 1, call.lane_factors.data()});
  return sums;
}

bool same(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) || std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

void expect_sums(const Call& call, Denormals of_pairs = Denormals::kFlushed) {
  const int64_t rows = call.shape.rows, stride = call.stride(), columns = call.shape.panels * 16;
  std::vector<float> before(static_cast<size_t>(rows * stride), kUntouched);
  Random random(7);
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t c = 0; c < columns; ++c)
      before[static_cast<size_t>(i * stride + c)] = static_cast<float>(random.normal());
  for (const Isa isa : test::machine_isas()) {
    if (isa == Isa::kAmx) continue;  // its own order: products_amx_test.cpp
    const Denormals denormals = isa == Isa::kAvx512Bf16 ? of_pairs : Denormals::kKept;
    for (const Ending ending : {Ending::kStore, Ending::kAccumulate, Ending::kPromote}) {
      const std::vector<float> after = sums_of(call, isa, ending, before);
      for (int64_t i = 0; i < rows; ++i) {
        for (int64_t c = 0; c < stride; ++c) {
          const float there = before[static_cast<size_t>(i * stride + c)];
          const float wanted = c < columns ? expected(call, i, c, there, ending, denormals) : kUntouched;
          ASSERT_TRUE(same(after[static_cast<size_t>(i * stride + c)], wanted))
              << name(isa) << " ending " << static_cast<int>(ending) << " " << rows << " rows, "
              << call.shape.panels << " panels, " << call.shape.pairs << " pairs, at " << i << ", " << c
              << ": " << after[static_cast<size_t>(i * stride + c)] << " not " << wanted;
        }
      }
    }
  }
}

TEST(products, every_number_of_rows_and_panels_gives_the_defined_sums) {
  Random random(1);
  const auto normal = [&] { return static_cast<float>(random.normal()); };
  for (const int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 16, 23, 24, 25, 31})
    for (const int64_t panels : {0, 1, 2, 3, 4, 5, 7, 8, 9})
      expect_sums(Call(rows_beside_each_other(rows, 3, panels), normal));
}

TEST(products, any_number_of_pairs) {
  Random random(2);
  const auto normal = [&] { return static_cast<float>(random.normal()); };
  for (const int64_t pairs : {0, 1, 2, 7, 64, 65, 288})
    expect_sums(Call(rows_beside_each_other(7, pairs, 3), normal));
}

TEST(products, strides_of_rows_pairs_and_panels_are_free) {
  Random random(3);
  const auto normal = [&] { return static_cast<float>(random.normal()); };
  for (const int64_t panels : {1, 2, 4}) {
    expect_sums(Call({26, 32, panels, 2, 2 * 26, 32 * 16, 16}, normal));  // rows are columns of a [pair][row]
    expect_sums(Call({6, 5, panels, 0, 2, 0, 16}, normal));               // the same row, the same panel
    expect_sums(Call({9, 5, panels, 3, 77, 16, 16 * panels + 8}, normal));  // panels side by side
    expect_sums(Call({5, 4, panels, 576, 2, 16 * 4 * 3, 16 * 3 - 1}, normal));
  }
}

TEST(products, a_factor_of_rows_may_have_a_stride) {
  Random random(4);
  Call call(rows_beside_each_other(9, 2, 1), [&] { return static_cast<float>(random.normal()); });
  std::vector<float> spread(9 * 5, kUntouched), sums(9 * 16, 1.0f);
  for (size_t i = 0; i < 9; ++i) spread[i * 5] = call.row_factors[i];
  for (const Isa isa : test::machine_isas()) {
    std::vector<float> near = sums, far = sums;
    const auto run = [&](std::vector<float>& into, const std::vector<float>& factors, int64_t stride) {
      kernels(isa).products(
          call.rows(), 2, call.panels(),
          {into.data(), 16, Ending::kPromote, factors.data(), stride, call.lane_factors.data()});
    };
    run(near, call.row_factors, 1);
    run(far, spread, 5);
    EXPECT_TRUE(test::identical(near, far)) << name(isa);
  }
}

// The second element first: (1, 2^30) . (1, 1) + -2^30 tells the two orders apart.
TEST(products, the_lanes_that_count_have_the_bits_of_a_whole_panel) {
  for (const Isa isa : test::machine_isas())
    for (const int64_t rows : {1, 3, 24, 29, 64}) {
      Random random(static_cast<uint64_t>(rows));
      const Call call(rows_beside_each_other(rows, 77, 1),
                      [&] { return static_cast<float>(random.normal()); });
      std::vector<float> whole(static_cast<size_t>(rows * call.stride())), part = whole;
      Panels panels = call.panels();
      kernels(isa).products(call.rows(), 77, panels, {whole.data(), call.stride()});
      panels.lanes = 8;
      kernels(isa).products(call.rows(), 77, panels, {part.data(), call.stride()});
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t l = 0; l < panels.lanes; ++l) {
          const auto at = static_cast<size_t>(r * call.stride() + l);
          EXPECT_EQ(part[at], whole[at]) << name(isa) << ", row " << r << ", lane " << l;
        }
    }
}

TEST(products, of_a_pair_the_second_element_is_added_first) {
  Call call({1, 1, 1, 2, 2, 16, 16}, [] { return 1.0f; });
  call.left[2] = to_bf16(0x1p30f).bits;
  for (const Isa isa : test::machine_isas()) {
    if (isa == Isa::kAmx) continue;
    const auto sums = sums_of(call, isa, Ending::kAccumulate,
                              std::vector<float>(static_cast<size_t>(call.stride()), -0x1p30f));
    EXPECT_EQ(sums[0], 1.0f) << name(isa);
  }
}

// Bits at random: all exponents, infinities, NaN. A product beyond fp32's range is still exact inside the
// sum.
TEST(products, bits_are_the_defined_ones_for_any_operands) {
  Random random(5);
  const auto any = [&] { return std::bit_cast<float>(static_cast<uint32_t>(random.bits())); };
  for (int i = 0; i < 40; ++i) expect_sums(Call(rows_beside_each_other(12, 2, 3), any));
  const auto large = [&] { return std::ldexp(static_cast<float>(random.normal()), 64); };
  for (int i = 0; i < 10; ++i) expect_sums(Call(rows_beside_each_other(12, 5, 3), large));
}

TEST(products, denormals_are_kept_except_by_the_pair_instruction) {
  Random random(6);
  const auto tiny = [&] { return std::ldexp(static_cast<float>(random.normal()), -127); };
  const auto small = [&] {
    return std::ldexp(static_cast<float>(random.normal()), -66);
  };  // products are denormal
  for (int i = 0; i < 10; ++i) {
    expect_sums(Call(rows_beside_each_other(12, 5, 3), tiny));
    expect_sums(Call(rows_beside_each_other(12, 5, 3), small));
  }
}

TEST(products, a_zero_times_infinity_is_nan_and_stays_in_its_row) {
  Call call(rows_beside_each_other(3, 4, 1), [] { return 1.0f; });
  call.left[1 + static_cast<size_t>(call.shape.row_stride) + 2] = 0x7F80;  // row 1
  for (uint32_t& pair : call.right) pair = 0;
  for (const Isa isa : test::machine_isas()) {
    const auto sums =
        sums_of(call, isa, Ending::kStore, std::vector<float>(static_cast<size_t>(3 * call.stride())));
    for (int64_t i = 0; i < 3; ++i)
      EXPECT_EQ(std::isnan(sums[static_cast<size_t>(i * call.stride())]), i == 1) << name(isa);
  }
}

TEST(head_sums, weights_times_what_is_positive_heads_ascending) {
  for (const int64_t lanes : {0, 1, 15, 16, 17, 48, 100, 200}) {
    const int64_t heads = 7, stride = lanes + 5;
    Random random(8);
    std::vector<float> products(static_cast<size_t>(heads * stride)), weights;
    for (float& product : products) product = static_cast<float>(random.normal());
    for (int64_t h = 0; h < heads; ++h) weights.push_back(static_cast<float>(random.normal()));
    if (lanes > 16) products[16] = NAN;
    if (lanes > 15) products[15] = -INFINITY;
    if (lanes > 14) products[14] = -0.0f;
    for (const Isa isa : test::machine_isas()) {
      std::vector<float> sums(static_cast<size_t>(lanes + 1), kUntouched);
      kernels(isa).head_sums(products.data(), stride, weights.data(), heads, lanes, sums.data());
      EXPECT_EQ(sums.back(), kUntouched);
      for (int64_t l = 0; l < lanes; ++l) {
        float sum = 0.0f;
        for (int64_t h = 0; h < heads; ++h) {
          const float product = products[static_cast<size_t>(h * stride + l)];
          sum = std::fma(weights[static_cast<size_t>(h)], product < 0.0f ? 0.0f : product, sum);
        }
        EXPECT_TRUE(same(sums[static_cast<size_t>(l)], sum)) << name(isa) << " lane " << l << " of " << lanes;
      }
    }
  }
}

}  // namespace
}  // namespace fulgurite::cpu
