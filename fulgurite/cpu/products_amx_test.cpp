// Kernels::products by tiles. The loop runs on registers written out in plain C++ on every machine, and on
// the instructions where the machine has them.

#include "fulgurite/cpu/products_amx_body.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "fulgurite/core/bf16.h"
#include "fulgurite/core/random.h"
#include "test/op_test.h"

namespace {

using fulgurite::Isa;
using fulgurite::Random;
using namespace pairs_in_tiles;

float flushed(float value) {
  return std::fpclassify(value) == FP_SUBNORMAL ? std::copysign(0.0f, value) : value;
}

float element(const uint8_t* pair, int which) {
  uint16_t bits;
  std::memcpy(&bits, pair + 2 * which, sizeof bits);
  return flushed(fulgurite::to_float(fulgurite::bf16{bits}));
}

// Tiles as Intel's manual defines them (Software Developer's Manual, volume 2: LDTILECFG, TILELOADD,
// TDPBF16PS).
class WrittenOutTiles {
 public:
  void configure(const Configuration& to) {
    EXPECT_EQ(to.palette, 1);
    for (int tile = 0; tile < 8; ++tile) EXPECT_LE(to.rows[tile], 16);
    configuration_ = to;
    configured_ = true;
  }
  void release() { configured_ = false; }

  template <int tile>
  void zero() {
    std::memset(tiles_[tile], 0, sizeof tiles_[tile]);
  }
  template <int tile>
  void load(const void* base, int64_t stride) {
    check(tile);
    zero<tile>();
    for (int row = 0; row < rows(tile); ++row)
      std::memcpy(tiles_[tile][row], static_cast<const char*>(base) + row * stride, row_bytes(tile));
  }
  template <int tile>
  void store(void* base, int64_t stride) const {
    check(tile);
    for (int row = 0; row < rows(tile); ++row)
      std::memcpy(static_cast<char*>(base) + row * stride, tiles_[tile][row], row_bytes(tile));
  }
  template <int sum, int left, int right>
  void multiply() {
    check(sum), check(left), check(right);
    ASSERT_EQ(rows(sum), rows(left));
    ASSERT_EQ(row_bytes(left) / 4, static_cast<size_t>(rows(right)));
    ASSERT_EQ(row_bytes(sum), row_bytes(right));
    for (int m = 0; m < rows(sum); ++m)
      multiply_row(tiles_[sum][m], tiles_[left][m], tiles_[right], rows(right));
  }

 private:
  using Row = uint8_t[kRowBytes];

  static void multiply_row(uint8_t* sums, const uint8_t* left, const Row* right, int pairs) {
    float part[16][2] = {};
    for (int k = 0; k < pairs; ++k)
      for (int n = 0; n < 16; ++n)
        for (int which = 0; which < 2; ++which)
          part[n][which] = flushed(
              std::fma(element(left + 4 * k, which), element(right[k] + 4 * n, which), part[n][which]));
    for (int n = 0; n < 16; ++n) {
      float sum;
      std::memcpy(&sum, sums + 4 * n, sizeof sum);
      sum = flushed(flushed(sum) + flushed(part[n][0] + part[n][1]));
      std::memcpy(sums + 4 * n, &sum, sizeof sum);
    }
  }

  void check(int tile) const {
    ASSERT_TRUE(configured_);
    ASSERT_GT(rows(tile), 0) << "tile " << tile << " is not configured";
  }
  int rows(int tile) const { return configuration_.rows[tile]; }
  size_t row_bytes(int tile) const { return configuration_.row_bytes[tile]; }

  Configuration configuration_{0, 0};
  bool configured_ = false;
  uint8_t tiles_[8][16][kRowBytes] = {};
};

// --- a call, and the sums that kernels.h promises ---

constexpr float kUntouched = -12345.0f;

struct Call {
  int64_t rows, pairs, panels, row_stride, panel_pair_stride;
  std::vector<uint16_t> left;
  std::vector<uint32_t> right;
  std::vector<float> row_factors, lane_factors;

  template <class Value>
  Call(int64_t rows, int64_t pairs, int64_t panels, const Value& value)
      : rows(rows), pairs(pairs), panels(panels), row_stride(2 * pairs + 1), panel_pair_stride(19) {
    const auto bits = [&] { return fulgurite::to_bf16(static_cast<float>(value())).bits; };
    const int64_t row_elements = rows == 0 ? 0 : (rows - 1) * row_stride + 2 * pairs;
    const int64_t panel_pairs = pairs == 0 ? 0 : panels * (pairs - 1) * panel_pair_stride + panels * 16;
    for (int64_t i = 0; i < row_elements; ++i) left.push_back(bits());
    for (int64_t i = 0; i < panel_pairs; ++i) right.push_back(bits() | static_cast<uint32_t>(bits()) << 16);
    for (int64_t i = 0; i < rows; ++i) row_factors.push_back(static_cast<float>(value()));
    for (int64_t i = 0; i < 16 * panels; ++i) lane_factors.push_back(static_cast<float>(value()));
  }
  int64_t panel_stride() const { return pairs == 0 ? 0 : (pairs - 1) * panel_pair_stride + 16; }
  int64_t stride() const { return 16 * panels + 5; }

  template <class Products>
  std::vector<float> sums(const Products& products, Ending ending, std::vector<float> sums) const {
    products(PairRows{left.data(), row_stride, 2, rows}, pairs,
             Panels{right.data(), panel_stride(), panel_pair_stride, panels},
             Sums{sums.data(), stride(), ending, row_factors.data(), 1, lane_factors.data()});
    return sums;
  }

  float expected(int64_t i, int64_t column, float there, Ending ending) const {
    float sum = ending == Ending::kAccumulate ? there : 0.0f;
    for (int64_t first = 0; first < pairs; first += 16) {
      float part[2] = {};
      for (int64_t p = first; p < std::min(pairs, first + 16); ++p) {
        const int64_t at = column / 16 * panel_stride() + p * panel_pair_stride + column % 16;
        for (int which = 0; which < 2; ++which) {
          const auto b = static_cast<uint16_t>(right[static_cast<size_t>(at)] >> (16 * which));
          const uint16_t a = left[static_cast<size_t>(i * row_stride + 2 * p + which)];
          part[which] = flushed(std::fma(flushed(fulgurite::to_float(fulgurite::bf16{a})),
                                         flushed(fulgurite::to_float(fulgurite::bf16{b})), part[which]));
        }
      }
      sum = flushed(flushed(sum) + flushed(part[0] + part[1]));
    }
    if (ending != Ending::kPromote) return sum;
    const float factor = row_factors[static_cast<size_t>(i)] * lane_factors[static_cast<size_t>(column)];
    return std::fma(sum, factor, there);
  }
};

template <class Products>
void expect_sums(const Call& call, const Products& products) {
  Random random(1);
  std::vector<float> before(static_cast<size_t>(call.rows * call.stride()), kUntouched);
  for (int64_t i = 0; i < call.rows; ++i)
    for (int64_t c = 0; c < 16 * call.panels; ++c)
      before[static_cast<size_t>(i * call.stride() + c)] = static_cast<float>(random.normal());
  for (const Ending ending : {Ending::kStore, Ending::kAccumulate, Ending::kPromote}) {
    const std::vector<float> after = call.sums(products, ending, before);
    for (int64_t i = 0; i < call.rows; ++i) {
      for (int64_t c = 0; c < call.stride(); ++c) {
        const float there = before[static_cast<size_t>(i * call.stride() + c)];
        const float wanted = c < 16 * call.panels ? call.expected(i, c, there, ending) : kUntouched;
        const float actual = after[static_cast<size_t>(i * call.stride() + c)];
        ASSERT_TRUE(actual == wanted || (std::isnan(actual) && std::isnan(wanted)))
            << "ending " << static_cast<int>(ending) << " " << call.rows << " rows, " << call.panels
            << " panels, " << call.pairs << " pairs, at " << i << ", " << c << ": " << actual << " not "
            << wanted;
      }
    }
  }
}

template <class Products>
void expect_all_sums(const Products& products) {
  Random random(2);
  const auto normal = [&] { return random.normal(); };
  for (const int64_t rows : {0, 1, 15, 16, 17, 31, 32, 33, 50})
    for (const int64_t panels : {0, 1, 2, 3})
      for (const int64_t pairs : {0, 1, 15, 16, 17, 64})
        expect_sums(Call(rows, pairs, panels, normal), products);
  const auto tiny = [&] { return random.normal() * 0x1p-64; };
  expect_sums(Call(20, 35, 3, tiny), products);
  const auto any = [&] { return std::bit_cast<float>(static_cast<uint32_t>(random.bits())); };
  for (int i = 0; i < 20; ++i) expect_sums(Call(5, 2, 1, any), products);
}

TEST(products_by_tiles, written_out_give_the_defined_sums) {
  expect_all_sums([](const PairRows& a, int64_t pairs, const Panels& b, const Sums& c) {
    WrittenOutTiles tiles;
    products(tiles, a, pairs, b, c);
  });
}

TEST(products_by_tiles, the_instructions_give_the_defined_sums) {
  if (fulgurite::cpu::best_isa() < Isa::kAmx) GTEST_SKIP() << "this machine has no AMX";
  expect_all_sums(fulgurite::cpu::kernels(Isa::kAmx).products);
}

TEST(products_by_tiles, pairs_that_are_apart_are_summed_as_without_tiles) {
  if (fulgurite::cpu::best_isa() < Isa::kAmx) GTEST_SKIP() << "this machine has no AMX";
  Random random(3);
  std::vector<uint16_t> left(40 * 64);
  for (uint16_t& value : left) value = fulgurite::to_bf16(static_cast<float>(random.normal())).bits;
  std::vector<uint32_t> right(32 * 16, 0x3F803F80u);
  const auto sums = [&](Isa isa) {
    std::vector<float> into(32 * 16);
    fulgurite::cpu::kernels(isa).products({left.data(), 2, 64, 32}, 32, {right.data(), 0, 16, 1},
                                          {into.data(), 16, Ending::kStore});
    return into;
  };
  EXPECT_TRUE(fulgurite::test::identical(sums(Isa::kAmx), sums(Isa::kAvx512Bf16)));
}

}  // namespace
