// Copies of weights that rows read in another form than the checkpoint's.

#include "fulgurite/plan/prepare.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <vector>

#include "test/hopper_plan.h"
#include "test/tiny_model.h"

namespace fulgurite::plan {
namespace {

// Elements of a bf16 copy that are not what one element alone is read as; none where it is no copy.
int64_t differing(const PreparedMatrix& prepared, const StoredMatrix& stored) {
  const auto* const values = std::get_if<View<const bf16, 2>>(&prepared.as);
  if (values == nullptr) return 0;
  const PreparedMatrix as_stored{stored.as, stored.out, stored.in};
  int64_t differ = 0;
  for (int64_t r = 0; r < stored.out; ++r)
    for (int64_t c = 0; c < stored.in; ++c) {
      const double expected = element(as_stored, WeightReading::kBf16, r, c);
      const double found = to_float((*values)(r, c));
      // The sign of a product of two NaN is the compiler's choice.
      differ += std::isnan(expected) ? !std::isnan(found)
                                     : std::bit_cast<uint64_t>(found) != std::bit_cast<uint64_t>(expected);
    }
  return differ;
}

TEST(prepare, copies_in_bf16_have_each_elements_bits) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const Plan plan = test::hopper_plan(tiny.model);
    const PreparedWeights weights = prepare(tiny.model, plan);
    int64_t copies = 0;
    for (size_t i = 0; i < weights.layers.size(); ++i) {
      const PreparedLayer& layer = weights.layers[i];
      const model::StoredLayer& stored = tiny.model.weights.layers[i];
      const auto check = [&](const PreparedMatrix& prepared, const StoredMatrix& as) {
        copies += format_of(prepared) != format_of(as);
        EXPECT_EQ(differing(prepared, as), 0) << recorded.name << " layer " << i;
      };
      if (stored.window) {
        check(layer.window.o_a, stored.window->o_a);
        continue;
      }
      check(layer.kv_b, stored.kv_b);
      if (plan.layers[i].attention->indexer) check(layer.index_k, stored.indexer.k);
    }
    RecordProperty(std::string(recorded.name) + "_copies", static_cast<int>(copies));
    EXPECT_GT(copies + (&recorded != test::kRecorded ? 1 : 0), 0) << "tiny-v32's wk is one";
  }
}

// Blocks that end short, NaN codes, scales that make denormals, infinities and NaN of bf16.
TEST(prepare, copies_in_bf16_of_any_blocks_have_each_elements_bits) {
  test::TinyModel tiny;
  StoredMatrix& wk = tiny.model.weights.layers[0].indexer.k;
  std::vector<e4m3> codes(static_cast<size_t>(wk.out * wk.in));
  for (size_t i = 0; i < codes.size(); ++i) codes[i] = {static_cast<uint8_t>(i * 167 + i / 256)};
  for (const BlockShape block : {BlockShape{48, 100}, BlockShape{128, 128}, BlockShape{1, kWhole},
                                 BlockShape{kWhole, kWhole}, BlockShape{1, 1}}) {
    const int64_t high = std::min(block.rows, wk.out), wide = std::min(block.columns, wk.in);
    const std::array<int64_t, 2> blocks{(wk.out + high - 1) / high, (wk.in + wide - 1) / wide};
    std::vector<float> scales(static_cast<size_t>(blocks[0] * blocks[1]));
    constexpr float kScales[] = {0.0123f, 1.5e-39f, 3e36f, -0.7f, 0.0f, NAN, INFINITY, 1.0f};
    for (size_t i = 0; i < scales.size(); ++i) scales[i] = kScales[i % std::size(kScales)];
    const StoredMatrix stored{BlockScaled{{codes.data(), {wk.out, wk.in}}, {scales.data(), blocks}, block},
                              wk.out, wk.in};
    wk = stored;
    const Plan plan = test::hopper_plan(tiny.model);
    const PreparedWeights weights = prepare(tiny.model, plan);
    EXPECT_EQ(format_of(weights.layers[0].index_k).form, MatrixForm::kBF16);
    EXPECT_EQ(differing(weights.layers[0].index_k, stored), 0) << block.rows << "x" << block.columns;
  }
}

}  // namespace
}  // namespace fulgurite::plan
