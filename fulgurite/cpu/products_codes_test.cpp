// Products with codes, of every build: the bits of packing and Kernels::products.

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"
#include "fulgurite/cpu/kernels.h"
#include "test/op_test.h"

namespace fulgurite::cpu {
namespace {

constexpr int64_t kMostRows = 17, kMostLanes = 144, kMostCodes = 144;

struct Operands {
  std::vector<uint16_t> rows;
  std::vector<uint8_t> codes;
  std::vector<float> row_factors, lane_factors, there;

  Operands() {
    Random random(7);
    const auto value = [&] { return static_cast<float>(2.0 * random.uniform() - 1.0); };
    for (int64_t i = 0; i < kMostRows * 130; ++i) rows.push_back(to_bf16(value()).bits);
    for (int64_t i = 0; i < kMostCodes * kMostLanes; ++i) {
      const auto code = static_cast<uint8_t>(random.below(256));
      codes.push_back((code & 0x7F) == 0x7F && i % 50 != 0 ? uint8_t{0x01} : code);
    }
    for (int64_t i = 0; i < kMostRows; ++i) row_factors.push_back(value());
    for (int64_t i = 0; i < kMostLanes; ++i) lane_factors.push_back(value());
    for (int64_t i = 0; i < kMostRows * kMostLanes; ++i) there.push_back(value());
  }
  // 128: as OperandRows lie.
  PairRows first_rows(int64_t count, int64_t stride) const { return {rows.data(), stride, 2, count}; }
  Sums sums(std::vector<float>& at, Ending ending) const {
    return {at.data(), kMostLanes, ending, row_factors.data(), 1, lane_factors.data()};
  }
};

std::vector<uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<uint32_t> bits;
  for (const float value : values)
    bits.push_back(value != value ? 0x7FC00000u : std::bit_cast<uint32_t>(value));
  return bits;
}

struct Case {
  int64_t rows, lanes, width;
};
std::vector<Case> cases() {
  std::vector<Case> all;
  for (const int64_t rows : {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 16, 17}) all.push_back({rows, 48, 128});
  for (const int64_t lanes : {1, 15, 16, 17, 31, 32, 33, 65, 96, 100, 128}) all.push_back({3, lanes, 64});
  for (const int64_t width : {1, 2, 15, 16, 30, 48, 127, 128}) all.push_back({2, 64, width});
  return all;
}

template <class Call>
void for_all(const Call& call) {
  const Operands operands;
  for (const Isa isa : test::machine_isas())
    for (const Case& of : cases())
      for (const int64_t stride : {128, 130})
        for (const Ending ending : {Ending::kStore, Ending::kAccumulate, Ending::kPromote}) {
          SCOPED_TRACE(::testing::Message()
                       << name(isa) << ' ' << of.rows << 'x' << of.lanes << 'x' << of.width << " stride "
                       << stride << " ending " << static_cast<int>(ending));
          const PairRows a = operands.first_rows(of.rows, stride);
          std::vector<float> own = operands.there, packed = operands.there;
          call(kernels(isa), operands, a, of, operands.sums(own, ending), operands.sums(packed, ending));
          ASSERT_EQ(bits_of(own), bits_of(packed));
        }
}

TEST(products_e4m3, are_the_products_of_panels_of_codes) {
  for_all([](const Kernels& kernels, const Operands& operands, const PairRows& a, const Case& of,
             const Sums& own, const Sums& expected) {
    const int64_t panels = (of.lanes + 15) / 16, pairs = (of.width + 1) / 2;
    std::vector<uint32_t> packed(static_cast<size_t>(panels * pairs * 16));
    for (int64_t j = 0; j < panels; ++j)
      kernels.pack_e4m3(operands.codes.data() + j * 16 * kMostCodes, kMostCodes,
                        std::min<int64_t>(16, of.lanes - j * 16), of.width, packed.data() + j * pairs * 16);
    kernels.products(a, pairs, {packed.data(), pairs * 16, 16, panels}, expected);
    kernels.products_e4m3(a, {operands.codes.data(), kMostCodes, 128}, of.lanes, of.width, nullptr, own);
  });
}

TEST(products_e4m3, with_scales_are_those_of_scaled_panels) {
  for (const float last : {0.37f, 0.41f, 0x1p-140f, INFINITY}) {
    std::vector<float> scale(kMostLanes, last == 0.41f || last == 0.37f ? 0.37f : last);
    scale[15] = last;
    for_all([&](const Kernels& kernels, const Operands& operands, const PairRows& a, const Case& of,
                const Sums& own, const Sums& expected) {
      const int64_t panels = (of.lanes + 15) / 16, pairs = (of.width + 1) / 2;
      std::vector<uint32_t> packed(static_cast<size_t>(panels * pairs * 16));
      for (int64_t j = 0; j < panels; ++j)
        kernels.pack_scaled(operands.codes.data() + j * 16 * kMostCodes, kMostCodes,
                            std::min<int64_t>(16, of.lanes - j * 16), of.width, scale.data() + j * 16,
                            packed.data() + j * pairs * 16);
      kernels.products(a, pairs, {packed.data(), pairs * 16, 16, panels}, expected);
      kernels.products_e4m3(a, {operands.codes.data(), kMostCodes}, of.lanes, of.width, scale.data(), own);
    });
  }
}

TEST(products_columns, are_the_products_of_rows_of_codes_interleaved) {
  for (const float scale : {1.0f, 0.37f, -0.3f, 0x1p-140f}) {
    for_all([&](const Kernels& kernels, const Operands& operands, const PairRows& a, const Case& of,
                const Sums& own, const Sums& expected) {
      const int64_t panels = (of.lanes + 15) / 16, pairs = (of.width + 1) / 2, lanes = panels * 16;
      std::vector<uint32_t> packed(static_cast<size_t>(pairs * lanes));
      for (int64_t p = 0; p < pairs; ++p) {
        std::vector<uint16_t> first(static_cast<size_t>(lanes)), second = first;
        const uint8_t* const codes = operands.codes.data() + 2 * p * kMostCodes;
        kernels.widen_e4m3(codes, of.lanes, scale, first.data());
        if (2 * p + 1 < of.width) kernels.widen_e4m3(codes + kMostCodes, of.lanes, scale, second.data());
        kernels.interleave(first.data(), second.data(), lanes, packed.data() + p * lanes);
      }
      kernels.products(a, pairs, {packed.data(), 16, lanes, panels}, expected);
      // Lanes that pad the last panel are of no account: what is compared is what was asked for.
      kernels.products_columns(a, {operands.codes.data(), kMostCodes, 128}, of.lanes, of.width, scale, own);
      for (int64_t i = 0; i < of.rows; ++i)
        for (int64_t l = of.lanes; l < lanes; ++l)
          own.base[i * own.stride + l] = expected.base[i * expected.stride + l];
    });
  }
}

}  // namespace
}  // namespace fulgurite::cpu
