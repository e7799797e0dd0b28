// The three goldens of DeepSeek-V4's attention (docs/numerics.md): their edges, how far they are apart, and how
// far a kernel is from `serving`, on inputs as the public checks draw them: eight tokens, the positions 8192,
// 127 and 31 in turn, queries and rows of unit root mean square.

#include <gtest/gtest.h>

#include "fulgurite/core/interval.h"
#include "fulgurite/ops/compressed_attention/compressed_attention.h"
#include "fulgurite/ops/compressed_attention/test_inputs.h"

namespace fulgurite::compressed_attention {
namespace {

constexpr Case kFlash{"Flash", 8, 64, 512, 64, 128, 0, 0, 8, 8200};
constexpr Case kPro{"Pro", 8, 128, 512, 64, 128, 0, 0, 8, 8200};

Case with_entries(Case shape, int64_t heads, int64_t ratio, int64_t topk) {
  shape.heads = heads;
  shape.ratio = ratio;
  shape.topk = topk;
  return shape;
}

void normalise(std::vector<float>& row) {
  double squares = 0.0;
  for (const float x : row) squares += static_cast<double>(x) * static_cast<double>(x);
  const double factor = std::sqrt(static_cast<double>(row.size()) / squares);
  for (float& x : row) x = static_cast<float>(x * factor);
}

Inputs decode_inputs(const Case& shape, const Setting& setting) {
  std::vector<int64_t> positions;
  for (int64_t t = 0; t < shape.tokens; ++t)
    positions.push_back(std::array{8192, 127, 31}[static_cast<size_t>(t % 3)]);
  Inputs in = make_inputs_at(20, shape, Values::kNormal, setting, positions);
  Random random(21);
  const auto unit = [&] {
    std::vector<float> row = inputs::make(random, Values::kNormal, shape.head_dim).elements;
    normalise(row);
    return row;
  };
  for (int64_t s = 0; s < shape.sequences; ++s) {
    for (int64_t i = 0; i < in.problem.ring; ++i) in.write(in.window, s, i, unit());
    for (int64_t i = 0; i < in.problem.entries; ++i) in.write(in.entries, s, i, unit());
  }
  for (int64_t t = 0; t < shape.tokens; ++t) {
    for (int64_t h = 0; h < shape.heads; ++h) {
      const std::vector<float> row = unit();
      for (int64_t c = 0; c < shape.head_dim; ++c) store(in.q.view, row[static_cast<size_t>(c)], t, h, c);
    }
  }
  return in;
}

std::vector<float> defined(const Inputs& in) {
  std::vector<double> exact(static_cast<size_t>(in.tokens() * in.problem.heads * in.problem.head_dim));
  const TensorBuffer<3> unused = in.unwritten();
  definition(in.problem, in.args(unused.view), {exact.data(), unused.view.extent});
  std::vector<float> out;
  for (const double x : exact) out.push_back(static_cast<float>(round_once(in.q.view.dtype, x)));
  return out;
}

std::vector<float> golden(Inputs in, auto change) {
  change(in.problem.setting.numerics);
  return result(kReference, in);
}
const auto kAsServing = [](Numerics&) {};

struct Distance {
  double relative_l2;
  double steps;   // of bf16, at most: of the element, or of the head's root mean square where that is larger
  double beyond;  // share of elements beyond 1e-4 + |x| / 128
};
Distance distance(const std::vector<float>& actual, const std::vector<float>& expected, int64_t head_dim) {
  Distance d{0.0, 0.0, 0.0};
  double off = 0.0, all = 0.0;
  const auto width = static_cast<size_t>(head_dim);
  for (size_t first = 0; first < expected.size(); first += width) {
    double squares = 0.0;
    for (size_t i = first; i < first + width; ++i) squares += std::pow(expected[i], 2.0);
    for (size_t i = first; i < first + width; ++i) {
      const double x = expected[i], apart = std::abs(actual[i] - x);
      const double size = std::max(std::abs(x), std::sqrt(squares / static_cast<double>(width)));
      d.steps = std::max(d.steps, apart / std::exp2(std::floor(std::log2(size)) - 7.0));
      d.beyond += !(apart <= 1e-4 + std::abs(x) / 128.0);
      off += apart * apart;
    }
    all += squares;
  }
  d.relative_l2 = std::sqrt(off / all);
  d.beyond /= static_cast<double>(expected.size());
  return d;
}

std::string describe(const Distance& d) {
  return fmt::format("relative L2 {:.2e}, {:.2f} steps, {:.4f} % beyond", d.relative_l2, d.steps,
                     100 * d.beyond);
}

const std::array kKinds{with_entries(kFlash, 16, 0, 0), with_entries(kFlash, 16, 4, 512),
                        with_entries(kFlash, 16, 128, 0)};

TEST(compressed_attention_goldens, are_as_far_apart_as_documented) {
  for (const Case& shape : kKinds) {
    const Inputs in = decode_inputs(shape, test::serving_setting());
    const std::vector<float> exact = defined(in), serving = golden(in, kAsServing),
                             pto = golden(in, kPtoTiles);
    const Distance a = distance(serving, exact, 512), b = distance(pto, exact, 512),
                   c = distance(pto, serving, 512);
    SCOPED_TRACE(fmt::format(
        "ratio {}\nserving from the definition {}\n#361 from the definition {}\n#361 from serving {}",
        shape.ratio, describe(a), describe(b), describe(c)));
    for (const Distance& d : {a, b, c}) {
      EXPECT_GT(d.relative_l2, 1e-4);  // they do differ
      EXPECT_LT(d.relative_l2, 3e-3);
      EXPECT_LE(d.steps, 2.0);
    }
  }
}

// What the contract states: one step of bf16.
TEST(compressed_attention_goldens, a_kernel_is_within_a_step_of_bf16_of_serving) {
  for (const Case& shape : {kFlash, kPro, with_entries(kFlash, 64, 4, 512), with_entries(kPro, 16, 4, 1024),
                            with_entries(kFlash, 64, 128, 0)}) {
    const Inputs in = decode_inputs(shape, test::serving_setting());
    const Distance d = distance(result(kCpuPairs, in, 2), golden(in, kAsServing), 512);
    SCOPED_TRACE(fmt::format("{}, ratio {}: {}", shape.what, shape.ratio, describe(d)));
    EXPECT_LE(d.steps, 1.0);
    EXPECT_LE(d.beyond, 0.005);
    EXPECT_LT(d.relative_l2, 3e-4);
  }
}

// --- edges ---

Inputs few(int64_t position, const Setting& setting) {
  return make_inputs_at(30, {"", 1, 3, 34, 6, 128, 4, 90, 1, 500}, Values::kNormal, setting, {position});
}

// Slots 64 .. 127 have no key: what stands behind them is tiled as if they had.
TEST(compressed_attention_goldens, a_tile_without_a_key_contributes_nothing) {
  for (const auto change : {+[](Numerics&) {}, +[](Numerics& n) { kPtoTiles(n); }}) {
    Inputs in = few(40, test::serving_setting());  // 41 of 128 slots, and 10 entries
    const std::vector<float> out = golden(in, change);
    Inputs narrow = in;  // a window of one tile: the same tiles without the empty one
    narrow.problem.window = 64;
    EXPECT_TRUE(test::identical(golden(narrow, change), out));
    Inputs other = in;
    other.problem.window = 50;  // entries move into the first tile: other roundings of P
    EXPECT_FALSE(test::identical(golden(other, change), out));
  }
}

TEST(compressed_attention_goldens, selected_slots_of_minus_one_are_skipped) {
  for (const Way& way : all_ways()) {
    Inputs in = few(499, way.setting);
    std::fill(in.lists.begin() + 20, in.lists.end(), -1);
    const std::vector<float> out = result(*way.row, in);
    in.problem.topk = 20;
    in.lists.resize(20);
    EXPECT_TRUE(test::identical(result(*way.row, in), out)) << way.what();
    std::fill(in.lists.begin(), in.lists.end(), -1);  // no entry at all: the window alone
    const std::vector<float> alone = result(*way.row, in);
    in.problem.topk = in.problem.ratio = in.problem.entries = 0;
    EXPECT_TRUE(test::identical(result(*way.row, in), alone)) << way.what();
  }
}

// A value as it meets P.
float value_of(const Inputs& in, int64_t c) {
  const float value = in.window.rows.value(0, 0, c);
  return in.problem.setting.numerics.softmax_p == SoftmaxP::kBf16 ? round_to_bf16(value) : value;
}

// With one key the definition is its row, times the share that the sink leaves.
TEST(compressed_attention_goldens, one_key_and_a_sink_share_the_weight) {
  for (const Way& way : all_ways()) {
    Inputs in = few(0, way.setting);
    in.sinks = {-kInfinity, 200.0f, kInfinity};
    const std::vector<float> out = result(*way.row, in);
    for (int64_t c = 0; c < 34; ++c) {
      const auto at = static_cast<size_t>(c);
      EXPECT_NEAR(out[at], value_of(in, c), 1e-6) << way.what();  // position 0 rotates nothing
      EXPECT_EQ(out[34 + at], 0.0f) << way.what();
      EXPECT_EQ(out[68 + at], 0.0f) << way.what();
    }
  }
}

TEST(compressed_attention_goldens, a_sink_as_large_as_the_only_score_halves_the_row) {
  for (const Way& way : all_ways()) {
    Inputs in = few(0, way.setting);
    for (int64_t c = 0; c < 34; ++c) store(in.q.view, 0.0f, 0, 0, c);
    in.sinks[0] = 0.0f;
    const std::vector<float> out = result(*way.row, in);
    for (int64_t c = 0; c < 34; ++c)
      EXPECT_EQ(out[static_cast<size_t>(c)], round_to(in.q.view.dtype, value_of(in, c) / 2));
  }
}

// The last columns are turned back: beside a query at position p, keys of the same turn give what they were.
TEST(compressed_attention_goldens, the_output_is_rotated_back_by_the_position_of_the_query) {
  Inputs in = few(333, test::fp32_setting());
  std::vector<float> row(34, 0.0f), turned = row;
  for (size_t c = 0; c < 34; ++c) row[c] = turned[c] = static_cast<float>(c) - 10.0f;
  const rotary::Table table = in.table.table();
  rotary::rotate(rotary::Layout::kInterleaved, table.cosine[333].data, table.sine[333].data, 6,
                 turned.data() + 28);
  for (int64_t i = 0; i < in.problem.ring; ++i) in.write(in.window, 0, i, turned);
  for (int64_t i = 0; i < in.problem.entries; ++i) in.write(in.entries, 0, i, turned);
  in.sinks.assign(3, -kInfinity);
  for (const std::vector<float>& out : {result(kReference, in), result(kCpu, in), defined(in)})
    for (size_t c = 0; c < 34; ++c) EXPECT_NEAR(out[c], row[c], 1e-4);
}

TEST(compressed_attention_goldens, a_NaN_or_infinity_stays_where_it_is_seen) {
  for (const Way& way : all_ways()) {
    for (const float bad : {kNaN, kInfinity}) {
      const Inputs in = make_inputs_at(31, {"", 3, 18, 34, 6, 8, 4, 5, 1, 100}, Values::kConstant,
                                       way.setting, {9, 30, 99});
      store(in.q.view, kNaN, 0, 1, 33);
      in.write(in.window, 0, 30 % in.problem.ring, std::vector<float>(34, bad));  // position 30 alone
      const std::vector<float> out = result(*way.row, in);
      for (size_t i = 0; i < out.size(); ++i) {
        const size_t t = i / (18 * 34), h = i / 34 % 18;
        EXPECT_EQ(std::isnan(out[i]), (t == 0 && h == 1) || t == 1) << way.what() << ", " << i;
      }
    }
    Inputs in = few(99, way.setting);
    in.sinks[1] = kNaN;
    const std::vector<float> out = result(*way.row, in);
    for (size_t i = 0; i < out.size(); ++i) EXPECT_EQ(std::isnan(out[i]), i / 34 == 1) << way.what();
  }
}

}  // namespace
}  // namespace fulgurite::compressed_attention
