// The graph against an implementation that is not ours: what Hugging Face transformers computes on the same
// checkpoint (golden/README.md). Contexts are four times index_topk.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kLast = 32;

checkpoint::SafetensorsFile trace_of(int sequence, plan::Candidates candidates) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(sequence);
  const auto positions = static_cast<int64_t>(ids.size());
  plan::Options options = test::trace_options(Numerics::fp32(), positions, positions);
  options.candidates = candidates;
  execute::Session session(tiny.model, plan::make(tiny.model, test::device(2), options));
  audit::Trace trace(0, positions, kLast);
  session.forward(0, ids, &trace);
  const auto path =
      test::scratch_file(fmt::format("oracle_{}_{}.safetensors", sequence, static_cast<int>(candidates)));
  trace.write(path);
  return checkpoint::SafetensorsFile::open(path);
}

// Is the distance between the scores on both sides of the cut at most 1e-5 of the row's largest? Then
// rounding decides.
bool near_tie(const checkpoint::SafetensorsFile& trace, int64_t layer, int64_t row) {
  const auto& tensor = trace.require(fmt::format("layer{}.index_scores", layer));
  const int64_t width = tensor.shape[1], topk = trace.require(fmt::format("layer{}.topk", layer)).shape[1];
  const auto values =
      checkpoint::f32_values(tensor).subspan(static_cast<size_t>(row * width), static_cast<size_t>(width));
  std::vector<float> scores(values.begin(), values.end());
  std::ranges::sort(scores, std::greater());
  const auto cut = static_cast<size_t>(topk);
  return cut < scores.size() && scores[cut - 1] - scores[cut] <= 1e-5 * std::abs(scores[0]);
}

// The rows of topk that differ as sets; each must be a near tie.
int64_t rows_decided_otherwise(const checkpoint::SafetensorsFile& trace,
                               const checkpoint::SafetensorsFile& golden, const std::string& prefix,
                               int64_t layer) {
  const std::string name = fmt::format("layer{}.topk", layer);
  const auto& tensor = trace.require(name);
  const auto ours = checkpoint::i32_values(tensor),
             theirs = checkpoint::i32_values(golden.require(prefix + name));
  EXPECT_EQ(ours.size(), theirs.size());
  const int64_t width = tensor.shape[1];
  int64_t rows = 0;
  for (int64_t r = 0; r < kLast; ++r) {
    std::vector<int32_t> a(ours.begin() + r * width, ours.begin() + (r + 1) * width);
    std::vector<int32_t> b(theirs.begin() + r * width, theirs.begin() + (r + 1) * width);
    std::ranges::sort(b);
    EXPECT_TRUE(std::ranges::is_sorted(a)) << name << " row " << r;
    if (a == b) continue;
    rows += 1;
    EXPECT_TRUE(near_tie(trace, layer, r))
        << prefix << name << " row " << r << " differs, and its cut is clear";
  }
  return rows;
}

void expect_close(const audit::TensorDifference& d) {
  SCOPED_TRACE(d.name);
  EXPECT_EQ(d.problem, "");
  EXPECT_EQ(d.mask_mismatches, 0);
  if (d.name == "logits") {
    EXPECT_LE(d.largest, 3e-4);
  } else if (!d.indices) {
    EXPECT_LE(d.relative_l2, 2e-5);
    EXPECT_LE(d.worst_row_l2, 4e-5);
  }
}

int64_t expect_oracle(int sequence, plan::Candidates candidates) {
  const std::string prefix = fmt::format("seq{}.", sequence);
  const auto trace = trace_of(sequence, candidates);
  const auto golden = checkpoint::SafetensorsFile::open(test::kGolden);
  const audit::Comparison comparison = audit::compare_files(trace, "", golden, prefix);
  EXPECT_EQ(comparison.tensors.size(), 4u * 3 + 1) << "attn_out, hidden and topk of four layers, logits";
  for (const audit::TensorDifference& d : comparison.tensors) expect_close(d);
  int64_t rows = 0;
  for (int64_t layer = 0; layer < 4; ++layer) rows += rows_decided_otherwise(trace, golden, prefix, layer);
  return rows;
}

TEST(oracle, the_cpu_implementations_agree_on_all_four_sequences) {
  int64_t rows = 0;
  for (int sequence = 0; sequence < 4; ++sequence) rows += expect_oracle(sequence, plan::Candidates::kAll);
  EXPECT_LE(rows, 4) << "of 512 rows of topk";
}

TEST(oracle, the_references_alone_agree) {
  EXPECT_LE(expect_oracle(0, plan::Candidates::kReferencesOnly), 1);
}

TEST(oracle, a_plan_of_references_runs_nothing_else) {
  const test::TinyModel tiny;
  plan::Options options;
  options.candidates = plan::Candidates::kReferencesOnly;
  for (const plan::Row& row : plan::make(tiny.model, test::device(1), options).rows) {
    EXPECT_EQ(row.implementation, "reference") << row.operation;
    EXPECT_FALSE(row.refused.empty()) << row.operation;
  }
}

// The same values that a session of either kind gives for `mla = expanded`: another order of roundings, the
// same model.
TEST(oracle, expanded_attention_agrees_as_well) {
  const test::TinyModel tiny;
  const std::vector<int32_t> ids = test::golden_ids(0);
  plan::Options options = test::trace_options(Numerics::fp32(), 512, 512);
  options.numerics.mla = Mla::kExpanded;
  execute::Session session(tiny.model, plan::make(tiny.model, test::device(2), options));
  audit::Trace trace(0, 512, kLast);
  session.forward(0, ids, &trace);
  const auto path = test::scratch_file("expanded.safetensors");
  trace.write(path);
  const auto ours = checkpoint::SafetensorsFile::open(path),
             golden = checkpoint::SafetensorsFile::open(test::kGolden);
  const audit::Comparison comparison = audit::compare_files(ours, "", golden, "seq0.");
  EXPECT_EQ(comparison.tensors.size(), 13u);
  for (const audit::TensorDifference& d : comparison.tensors) expect_close(d);
  for (int64_t layer = 0; layer < 4; ++layer)
    EXPECT_LE(rows_decided_otherwise(ours, golden, "seq0.", layer), 1);
}

}  // namespace
}  // namespace fulgurite
