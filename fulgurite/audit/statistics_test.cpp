#include "fulgurite/audit/statistics.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <vector>

#include "fulgurite/audit/likelihood.h"
#include "fulgurite/audit/selection.h"

namespace fulgurite::audit {
namespace {

using Floats = std::vector<float>;

TEST(statistics, name_the_worst_row_the_largest_error_and_its_place) {
  TensorStatistics s;
  for (int64_t row = 0; row < 1000; ++row) {
    const Floats expected{1.0f, 2.0f, -3.0f, 4.0f};
    Floats actual = expected;
    if (row == 637) actual[2] = -3.5f;  // one in a thousand
    s.add_row(row, actual, expected, DType::kF32);
  }
  EXPECT_EQ(s.rows_differing, 1);
  EXPECT_EQ(s.worst_row, 637);
  EXPECT_NEAR(s.worst_row_l2, 0.5 / std::sqrt(30.0), 1e-9);
  EXPECT_NEAR(s.relative_l2(), 0.5 / std::sqrt(30000.0), 1e-9);
  EXPECT_EQ(s.largest, 0.5);
  EXPECT_EQ(s.largest_row, 637);
  EXPECT_EQ(s.largest_column, 2);
  EXPECT_EQ(s.bias(), -1.0);
}

TEST(statistics, count_nan_and_infinity_on_one_side) {
  TensorStatistics s;
  const float inf = INFINITY;
  s.add_row(0, Floats{NAN, 1.0f, inf, inf, NAN}, Floats{1.0f, NAN, -inf, inf, NAN}, DType::kF32);
  EXPECT_EQ(s.mask_mismatches, 3);
  EXPECT_EQ(s.elements, 0);
  EXPECT_EQ(s.rows_differing, 1);
}

TEST(statistics, count_steps_of_the_type_across_zero) {
  TensorStatistics f32, bf16;
  const float one_up = std::nextafter(1.0f, 2.0f);
  f32.add_row(0, Floats{1.0f, one_up, 0x1p-149f, -0.0f}, Floats{1.0f, 1.0f, -0x1p-149f, 0.0f}, DType::kF32);
  EXPECT_EQ(f32.ulps, (std::array<int64_t, 6>{2, 1, 1, 0, 0, 0}));
  EXPECT_EQ(f32.differing, 2);
  EXPECT_EQ(f32.differing_as_bf16, 1) << "denormals of both signs stay apart, 1 and the next do not";
  bf16.add_row(0, Floats{1.0f, 1.0234375f, 2.0f}, Floats{1.0f, 1.0f, 1.0f}, DType::kBF16);
  EXPECT_EQ(bf16.ulps, (std::array<int64_t, 6>{1, 0, 0, 1, 0, 1}));
}

TEST(statistics, a_mean_has_the_interval_of_its_sample) {
  Mean mean;
  for (const double value : {1.0, 2.0, 3.0, 4.0}) mean.add(value);
  EXPECT_EQ(mean.mean(), 2.5);
  EXPECT_NEAR(mean.error(), std::sqrt(1.25 / 3.0), 1e-12);  // s / sqrt(n)
  EXPECT_EQ(mean.largest, 4.0);
}

TEST(selection, overlap_is_of_rows_that_had_a_choice) {
  SelectionStatistics s;
  using Row = std::vector<int32_t>;
  s.add_sets(1, 2, Row{0, 1, -1}, Row{0, 1, -1});
  s.add_sets(7, 8, Row{1, 4, 6}, Row{1, 4, 6});
  s.add_sets(9, 10, Row{1, 5, 9}, Row{1, 4, 6});
  EXPECT_EQ(s.rows, 3);
  EXPECT_EQ(s.open, 2);
  EXPECT_NEAR(s.overlap.mean(), (1.0 + 1.0 / 3.0) / 2.0, 1e-12);
  EXPECT_EQ(s.changed.mean(), 0.5);
  EXPECT_EQ(s.least_overlap_row, 9);
}

TEST(selection, a_tie_at_the_cut_is_seen_and_one_elsewhere_is_not) {
  SelectionStatistics s;
  s.add_scores(Floats{5.0f, 5.0f, 3.0f, 1.0f}, 2);        // between those chosen
  s.add_scores(Floats{5.0f, 3.0f, 3.0f, 3.0f, 1.0f}, 2);  // three for one place
  s.add_scores(Floats{1.0f, 2.0f}, 2);                    // nothing to choose
  EXPECT_EQ(s.rows_decided_by_tie, 1);
  EXPECT_EQ(s.most_ties, 3);
  EXPECT_EQ(s.margins, (Floats{0.5f, 0.0f}));
  EXPECT_EQ(s.margin_quantile(0.0), 0.0);
}

// One head, latent of one value, no RoPE: scores 0, ln 3 and 0 of rows 0, 1 and 2.
TEST(selection, recall_is_the_attention_on_shared_rows) {
  const float q = 1.0f, keys[] = {0.0f, std::log(3.0f), 0.0f};
  const int32_t selected[] = {0, 1, 2};
  const TokenPlace place{0, 2};
  sparse_attention::Problem problem;
  problem.heads = problem.latent = 1;
  problem.scale = 1.0f;
  sparse_attention::Args args;
  args.q = View<const float, 3>(&q, {1, 1, 1});
  args.cache.row = {LatentCache::kFp32, 1, 0};
  args.cache.rows = {reinterpret_cast<const std::byte*>(keys), {1, 3, 4}};
  args.selected = {selected, {1, 3}};
  args.places = {&place, {1}};
  const auto recall = [&](std::vector<int32_t> other) { return attention_recall(problem, args, 0, other); };
  EXPECT_EQ(recall({0, 1, 2}), 1.0);
  EXPECT_NEAR(recall({0, 1, 5}), 0.8, 1e-6);
  EXPECT_NEAR(recall({0, 2, 5}), 0.4, 1e-6);
  EXPECT_EQ(recall({7, -1, -1}), 0.0);
}

// The same of entries.
TEST(selection, recall_of_entries_is_the_attention_on_shared_ones) {
  const float q = 1.0f;
  std::vector<float> entries(KvRow::kBlockRows, 0.0f);
  entries[1] = std::log(3.0f);
  const int32_t selected[] = {0, 1, 2};
  const TokenPlace place{0, 11};
  compressed_attention::Problem problem;
  problem.heads = problem.head_dim = 1;
  problem.scale = 1.0f;
  compressed_attention::Args args;
  args.q = View<const float, 3>(&q, {1, 1, 1});
  args.entries.row = {LatentCache::kFp32, 1, 0};
  args.entries.blocks = {reinterpret_cast<const std::byte*>(entries.data()),
                         {1, 1, args.entries.row.block_bytes()}};
  args.selected = {selected, {1, 3}};
  args.places = {&place, {1}};
  const auto recall = [&](std::vector<int32_t> other) { return attention_recall(problem, args, 0, other); };
  EXPECT_EQ(recall({0, 1, 2}), 1.0);
  EXPECT_NEAR(recall({0, 1, 5}), 0.8, 1e-6);
  EXPECT_NEAR(recall({0, 2, -1}), 0.4, 1e-6);
}

TEST(histogram, counts_what_lies_below_each_edge_and_NaN_at_the_end) {
  const Floats values{-1.0f, 0.0f, 0.5f, 1.0f, 7.0f, NAN};
  const Histogram histogram = histogram_of(values, std::array{0.0, 0.5, 1.0});
  EXPECT_EQ(histogram.edges, (std::vector<double>{0.0, 0.5, 1.0}));
  EXPECT_EQ(histogram.counts, (std::vector<int64_t>{1, 1, 1, 3}));
}

TEST(likelihood, divergence_and_difference_are_those_of_the_definition) {
  LikelihoodStatistics l;
  const Floats base{0.0f, 0.0f}, other{std::log(3.0f), 0.0f}, broken{NAN, 0.0f};
  l.add(View<const float, 1>(other.data(), {2}), View<const float, 1>(base.data(), {2}), 1);
  EXPECT_NEAR(l.kl.mean(), 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25), 1e-7);
  EXPECT_NEAR(l.nll_difference.mean(), std::log(2.0), 1e-7);
  EXPECT_EQ(l.top_agreement(), 1.0);
  l.add(View<const float, 1>(broken.data(), {2}), View<const float, 1>(base.data(), {2}), 1);
  EXPECT_EQ(l.not_finite, 1);
  EXPECT_EQ(l.kl.count, 1) << "what is no number is counted and not averaged";
}

}  // namespace
}  // namespace fulgurite::audit
