// The graph against an implementation that is not ours: what Hugging Face transformers computes on the same
// checkpoints (golden/README.md). Contexts are four and six times index_topk, of DeepSeek-V4 five times in
// entries.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "test/gpu.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

struct Oracle : test::Recorded {
  std::vector<int64_t> selecting;  // layers whose topk was recorded
  size_t tensors = 0;              // of a sequence
  int64_t unseen_scores = 0;       // index scores that the oracle has of what is not visible yet
};
constexpr double kRelativeL2 = 2e-5;  // of attn_out and hidden

const Oracle kV32{test::kRecordedV32, {0, 1, 2, 3}, 4 * 3 + 1};
const Oracle kGlm5{test::kRecordedGlm5, {0, 2}, 4 * 2 + 2 + 3 + 1};  // three layers of experts
// attn_in, q_normed, attn_out, expert_ids and hidden of three layers, entries of two, scores and topk of one.
// The last 16 of 640 positions see 156 to 160 entries.
const Oracle kV4{test::kRecordedV4, {1}, 3 * 5 + 2 + 2 + 1, 3 * 4 + 4 * 3 + 4 * 2 + 4 * 1};
const Oracle* const kAll[] = {&kV32, &kGlm5, &kV4};

struct How {
  Numerics numerics = Numerics::fp32();
  plan::Candidates candidates = plan::Candidates::kAll;
  Device device = test::device(2);
};

checkpoint::SafetensorsFile trace_of(const Oracle& oracle, int sequence, const How& how, int64_t last) {
  const test::TinyModel tiny(oracle.directory());
  const std::vector<int32_t> ids = test::golden_ids(sequence, oracle.golden());
  plan::Options options = test::trace_options(how.numerics, oracle.positions, oracle.positions);
  options.candidates = how.candidates;
  execute::Session session(tiny.model, plan::make(tiny.model, how.device, options));
  audit::Trace trace(0, oracle.positions, last);
  session.forward(0, ids, &trace);
  const auto path = test::scratch_file(fmt::format("oracle_{}.safetensors", last));
  trace.write(path);
  return checkpoint::SafetensorsFile::open(path);
}

// What a row's index logits are in double precision, from the operands in a trace of all positions. Of
// entries there are as many as are whole.
std::vector<double> exact_scores(const checkpoint::SafetensorsFile& whole, int64_t layer, int64_t position) {
  const auto values = [&](const char* name) {
    return checkpoint::f32_values(whole.require(fmt::format("layer{}.{}", layer, name)));
  };
  const auto q = values("index_q"), k = values("index_k"), weights = values("index_weights");
  const std::vector<int64_t>& shape = whole.require(fmt::format("layer{}.index_q", layer)).shape;
  const int64_t heads = shape[1], dim = shape[2];
  const int64_t ratio = shape[0] / whole.require(fmt::format("layer{}.index_k", layer)).shape[0];
  std::vector<double> scores(static_cast<size_t>((position + 1) / ratio));
  for (int64_t s = 0; s < std::ssize(scores); ++s)
    for (int64_t h = 0; h < heads; ++h) {
      double dot = 0.0;
      for (int64_t i = 0; i < dim; ++i)
        dot += static_cast<double>(q[static_cast<size_t>((position * heads + h) * dim + i)]) *
               k[static_cast<size_t>(s * dim + i)];
      scores[static_cast<size_t>(s)] +=
          weights[static_cast<size_t>(position * heads + h)] * std::max(dot, 0.0);
    }
  return scores;
}

// Is the distance between the scores on both sides of the cut at most 1e-5 of the row's largest? Then
// rounding decides.
bool near_tie(std::vector<double> scores, size_t cut) {
  std::ranges::sort(scores, std::greater());
  return cut < scores.size() && scores[cut - 1] - scores[cut] <= 1e-5 * std::abs(scores[0]);
}

// Rows of topk that differ as sets.
struct Decisions {
  int64_t ties = 0;   // their cut is a near tie
  int64_t clear = 0;  // it is not
};

// One sequence against its record.
class Agreement {
 public:
  Agreement(const Oracle& oracle, int sequence, const How& how)
      : oracle_(oracle),
        sequence_(sequence),
        how_(how),
        trace_(trace_of(oracle, sequence, how, oracle.last)),
        golden_(checkpoint::SafetensorsFile::open(oracle.golden())),
        comparison_(audit::compare_files(trace_, "", golden_, prefix())) {}

  const audit::Comparison& comparison() const { return comparison_; }

  void expect_close() const {
    EXPECT_EQ(comparison_.tensors.size(), oracle_.tensors);
    for (const audit::TensorDifference& d : comparison_.tensors) expect_close(d);
  }

  Decisions decisions() {
    Decisions all;
    for (const int64_t layer : oracle_.selecting) count_decisions(layer, all);
    return all;
  }

 private:
  std::string prefix() const { return fmt::format("seq{}.", sequence_); }

  void expect_close(const audit::TensorDifference& d) const {
    SCOPED_TRACE(prefix() + d.name);
    EXPECT_EQ(d.problem, "");
    EXPECT_EQ(d.mask_mismatches, d.name.ends_with("index_scores") ? oracle_.unseen_scores : 0);
    if (d.name == "logits") {
      EXPECT_LE(d.largest, 3e-4);
    } else if (d.name.ends_with("expert_ids")) {
      EXPECT_EQ(d.rows_that_differ, 0);
    } else if (!d.indices) {
      EXPECT_LE(d.relative_l2, kRelativeL2);
      EXPECT_LE(d.worst_row_l2, 2 * kRelativeL2);
    }
  }

  void count_decisions(int64_t layer, Decisions& all) {
    const std::string name = fmt::format("layer{}.topk", layer);
    const auto& tensor = trace_.require(name);
    const auto ours = checkpoint::i32_values(tensor),
               theirs = checkpoint::i32_values(golden_.require(prefix() + name));
    ASSERT_EQ(ours.size(), theirs.size());
    const int64_t width = tensor.shape[1];
    for (int64_t r = 0; r < oracle_.last; ++r) {
      std::vector<int32_t> a(ours.begin() + r * width, ours.begin() + (r + 1) * width);
      std::vector<int32_t> b(theirs.begin() + r * width, theirs.begin() + (r + 1) * width);
      std::ranges::sort(b);
      EXPECT_TRUE(std::ranges::is_sorted(a)) << name << " row " << r;
      if (a == b) continue;
      const int64_t position = oracle_.positions - oracle_.last + r;
      ++(near_tie(exact_scores(whole(), layer, position), static_cast<size_t>(width)) ? all.ties : all.clear);
    }
  }

  // Keys of all positions.
  const checkpoint::SafetensorsFile& whole() {
    if (!whole_) whole_.emplace(trace_of(oracle_, sequence_, how_, oracle_.positions));
    return *whole_;
  }

  const Oracle& oracle_;
  int sequence_;
  How how_;
  checkpoint::SafetensorsFile trace_, golden_;
  audit::Comparison comparison_;
  std::optional<checkpoint::SafetensorsFile> whole_;
};

// The rows that rounding decided.
int64_t expect_oracle(const Oracle& oracle, int sequence, const How& how = {}) {
  SCOPED_TRACE(oracle.name);
  Agreement agreement(oracle, sequence, how);
  agreement.expect_close();
  const Decisions decisions = agreement.decisions();
  EXPECT_EQ(decisions.clear, 0) << "rows of topk differ, and their cut is clear";
  return decisions.ties;
}

int64_t expect_oracle_of_all_sequences(const Oracle& oracle, const How& how = {}) {
  int64_t ties = 0;
  for (int sequence = 0; sequence < oracle.sequences; ++sequence)
    ties += expect_oracle(oracle, sequence, how);
  fmt::print("{}: {} rows of topk were decided otherwise, each by a near tie\n", oracle.name, ties);
  return ties;
}

void expect_oracle_of_all_families(const How& how) {
  EXPECT_LE(expect_oracle_of_all_sequences(kV32, how), 4) << "of 512 rows of topk";
  EXPECT_LE(expect_oracle_of_all_sequences(kGlm5, how), 2) << "of 64 rows of topk";
  EXPECT_LE(expect_oracle_of_all_sequences(kV4, how), 1) << "of 32 rows of topk";
}

TEST(oracle, the_cpu_implementations_agree_on_all_sequences) { expect_oracle_of_all_families({}); }

TEST(oracle, the_gpu_agrees_on_all_sequences) {
  if (!cuda::is_built()) GTEST_SKIP() << "this build has no kernels of a GPU";
  expect_oracle_of_all_families({Numerics::fp32(), plan::Candidates::kAll, test::gpu()});
}

TEST(oracle, the_references_alone_agree) {
  for (const Oracle* const oracle : kAll)
    EXPECT_LE(expect_oracle(*oracle, 0, {Numerics::fp32(), plan::Candidates::kReferencesOnly}), 1);
}

// The same values that a session of either kind gives for `mla = expanded`: another order of roundings, the
// same model.
TEST(oracle, expanded_attention_agrees_as_well) {
  How expanded;
  expanded.numerics.mla = Mla::kExpanded;
  for (const Oracle* const oracle : {&kV32, &kGlm5}) EXPECT_LE(expect_oracle(*oracle, 0, expanded), 4);
}

// sglang #13530, ATOM #1502: nothing but a selection beyond index_topk positions shows it.
TEST(oracle, an_indexer_rotated_as_another_family_does_it_is_found_out) {
  const auto rotated = [](IndexerRope style) {
    How how;
    how.numerics.indexer_rope = style;
    return how;
  };
  for (const auto& [oracle, right, wrong] :
       {std::tuple{&kV32, IndexerRope::kHalfSplit, IndexerRope::kInterleaved},
        std::tuple{&kGlm5, IndexerRope::kInterleaved, IndexerRope::kHalfSplit}}) {
    SCOPED_TRACE(oracle->name);
    EXPECT_LE(expect_oracle(*oracle, 0, rotated(right)), 2);
    Agreement agreement(*oracle, 0, rotated(wrong));
    EXPECT_GT(agreement.decisions().clear, oracle->last / 2) << "selections by a clear cut, and others";
    for (const audit::TensorDifference& d : agreement.comparison().tensors)
      if (d.name == "layer0.attn_out") {
        EXPECT_GT(d.relative_l2, 100 * kRelativeL2);
      }
  }
}

TEST(oracle, a_plan_of_references_runs_nothing_else) {
  plan::Options options;
  options.candidates = plan::Candidates::kReferencesOnly;
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    for (const plan::Row& row : plan::make(tiny.model, test::device(1), options).rows) {
      EXPECT_EQ(row.implementation, "reference") << row.operation;
      EXPECT_FALSE(row.refused.empty()) << row.operation;
    }
  }
}

}  // namespace
}  // namespace fulgurite
