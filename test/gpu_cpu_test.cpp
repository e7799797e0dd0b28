// `serving` on a GPU beside the CPU's own kernels: likelihood, and the rows that the indexer chooses. Both choose the top k of their own
// scores, which round apart; where they choose otherwise, the rows that change places lie as near to each other as the scores do.
// How much the chosen sets may differ: no more than those of `serving` and `fp32` on the CPU do, on the whole and in how many lose a
// quarter. (A single choice says nothing: of tiny-glm5 one has 1 row of 64 in common, and the CPU's references with mma = hopper are as
// far from the CPU's kernels there, in the same row. That a score is right is what audits hold, on the same inputs.)

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "fulgurite/audit/likelihood.h"
#include "fulgurite/audit/selection.h"
#include "fulgurite/core/element.h"
#include "test/gpu.h"
#include "test/tiny_model.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

struct Choice {
  std::vector<float> scores;  // of the visible candidates
  std::vector<int32_t> rows;  // ascending
};

// The choices of each layer, token by token.
class Choices : public execute::Tap {
 public:
  void begin(std::span<const TokenPlace>) override {}
  void at(execute::TapPoint point, int64_t layer, const execute::TapTensor& tensor) override {
    if (point != execute::TapPoint::kIndexScores && point != execute::TapPoint::kTopk) return;
    const bool are_scores = point == execute::TapPoint::kIndexScores;
    if (!are_scores && !of_layers.contains(layer)) return;  // another layer's choice stands there
    std::vector<Choice>& seen = of_layers[layer];
    for (int64_t t = 0; t < tensor.view.extent[0]; ++t) {
      if (are_scores) seen.emplace_back();  // scores come first
      Choice& choice = seen[seen.size() - (are_scores ? 1 : static_cast<size_t>(tensor.view.extent[0] - t))];
      for (int64_t i = 0; i < tensor.view.extent[2]; ++i) {
        if (are_scores) {
          const float score = load(tensor.view, t, int64_t{0}, i);
          if (score > -INFINITY) choice.scores.push_back(score);
        } else if (const int32_t row = tensor.view.as<int32_t>()(t, 0, i); row >= 0) {
          choice.rows.push_back(row);
        }
      }
    }
  }

  std::map<int64_t, std::vector<Choice>> of_layers;
};

struct Pass {
  Choices choices;
  std::vector<float> logits;
};

Pass run(const model::Model& model, const Device& device, const Numerics& numerics,
         std::span<const int32_t> ids) {
  const auto tokens = std::ssize(ids);
  execute::Session session(model, plan::make(model, device, test::trace_options(numerics, tokens, tokens)));
  Pass pass;
  const View<const float, 2> logits = session.forward(0, ids, &pass.choices);
  pass.logits.assign(logits.data, logits.data + logits.size());
  return pass;
}

struct Found {
  audit::LikelihoodStatistics likelihood;
  audit::SelectionStatistics selection;
  int64_t beyond = 0;           // rows with a change of places that their scores do not explain
  double largest_margin = 0.0;  // of those that changed places, of the range of the row's scores
};

void compare(const Choice& other, const Choice& base, Found& found) {
  const int64_t visible = std::ssize(base.scores);
  ASSERT_EQ(other.scores.size(), base.scores.size());
  found.selection.add_sets(visible - 1, visible, other.rows, base.rows);
  std::vector<int32_t> lost, gained;
  std::ranges::set_difference(base.rows, other.rows, std::back_inserter(lost));
  std::ranges::set_difference(other.rows, base.rows, std::back_inserter(gained));
  if (lost.empty()) return;
  double apart = 0.0;
  for (size_t i = 0; i < base.scores.size(); ++i)
    apart = std::max(apart, std::abs(static_cast<double>(other.scores[i]) - base.scores[i]));
  const auto score = [&](int32_t row) { return static_cast<double>(base.scores[static_cast<size_t>(row)]); };
  const double highest = score(*std::ranges::max_element(lost, {}, score)),
               lowest = score(*std::ranges::min_element(gained, {}, score));
  const auto [least, most] = std::ranges::minmax(base.scores);
  found.beyond += highest - lowest > 2.0 * apart;
  found.largest_margin = std::max(found.largest_margin, (highest - lowest) / (most - least));
}

void compare(const Pass& other, const Pass& base, std::span<const int32_t> ids, Found& found) {
  const std::array<int64_t, 2> shape{std::ssize(ids), std::ssize(base.logits) / std::ssize(ids)};
  const View<const float, 2> expected(base.logits.data(), shape), logits(other.logits.data(), shape);
  for (int64_t t = 0; t + 1 < std::ssize(ids); ++t)
    found.likelihood.add(logits[t], expected[t], ids[static_cast<size_t>(t + 1)]);
  for (const auto& [layer, choices] : base.choices.of_layers) {
    const std::vector<Choice>& others = other.choices.of_layers.at(layer);
    ASSERT_EQ(others.size(), choices.size());
    for (size_t t = 0; t < choices.size(); ++t) compare(others[t], choices[t], found);
  }
}

// Of sets of which a quarter or more is not in common.
int64_t far_apart(const Found& found) {
  return std::ranges::count_if(found.selection.overlaps, [](float share) { return share <= 0.75f; });
}

void print(const std::string& name, const char* what, const Found& found) {
  const audit::SelectionStatistics& sets = found.selection;
  fmt::print(
      "{} {}: {} tokens, likelihood {:+.1e} +- {:.1e}, top-1 {:.1f} %; {} rows with a choice, {:.1f} % "
      "differ, overlap {:.5f}, {} of 0.75 or less, least {:.3f}; rows change places within {:.1e} of their "
      "scores' "
      "range\n",
      name, what, found.likelihood.tokens, found.likelihood.nll_difference.mean(),
      1.96 * found.likelihood.nll_difference.error(), 100.0 * found.likelihood.top_agreement(), sets.open,
      100.0 * sets.changed.mean(), sets.overlap.mean(), far_apart(found), sets.least_overlap,
      found.largest_margin);
}

TEST(gpu, a_choice_that_its_scores_do_not_explain_is_told) {
  const Choice base{{4.0f, 3.0f, 2.9f, 1.0f}, {0, 1}};
  Found found;
  compare({{4.0f, 2.9f, 3.0f, 1.0f}, {0, 2}}, base, found);
  EXPECT_EQ(found.beyond, 0);
  EXPECT_NEAR(found.largest_margin, 0.1 / 3.0, 1e-6);
  compare({{4.0f, 2.9f, 3.0f, 1.0f}, {0, 3}}, base, found);
  EXPECT_EQ(found.beyond, 1);
  EXPECT_EQ(found.selection.open, 2);
  EXPECT_EQ(found.selection.least_overlap, 0.5);
}

TEST(gpu, serving_is_the_cpus_by_likelihood_and_by_what_is_chosen) {
  const bool fast = cuda::is_built();  // loops on the host take their time
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    Found on_gpu, in_fp32;
    for (int64_t sequence = 0; sequence < (fast ? recorded.sequences : 1); ++sequence) {
      const auto whole = test::golden_ids(static_cast<int>(sequence), recorded.golden());
      const auto ids = std::span(whole).first(fast ? whole.size() : 136);
      const Pass base = run(tiny.model, test::device(8), Numerics::serving(), ids);
      compare(run(tiny.model, test::gpu(), Numerics::serving(), ids), base, ids, on_gpu);
      compare(run(tiny.model, test::device(8), Numerics::fp32(), ids), base, ids, in_fp32);
    }
    print(recorded.name, "GPU", on_gpu);
    print(recorded.name, "fp32", in_fp32);
    const auto& difference = on_gpu.likelihood.nll_difference;
    EXPECT_EQ(on_gpu.likelihood.not_finite, 0);
    EXPECT_LE(std::abs(difference.mean()), 0.005 + 1.96 * difference.error()) << recorded.name;
    EXPECT_GT(on_gpu.selection.open, 0) << recorded.name << ": a context longer than what is chosen";
    EXPECT_GE(on_gpu.selection.overlap.mean(), in_fp32.selection.overlap.mean()) << recorded.name;
    EXPECT_LE(far_apart(on_gpu), far_apart(in_fp32) + on_gpu.selection.open / 500) << recorded.name;
    EXPECT_EQ(on_gpu.beyond, 0) << recorded.name;
  }
}

// Of so many tokens that 0.005 nats are more than chance: differences of single tokens are a fifth of a nat.
TEST(gpu, serving_has_the_cpus_likelihood_of_a_text) {
  if (!cuda::is_built()) GTEST_SKIP() << "the command refuses --device cuda in a build without kernels";
  const auto likelihood = [](const std::string& model, int windows, int window, const char* device) {
    const test::ToolRun run = test::run_tool(
        fmt::format("eval {0}/models/{1} --text {0}/golden/text/public.txt --windows {2} --window {3} "
                    "--numerics serving --device {4} --json",
                    test::kSource, model, windows, window, device));
    EXPECT_EQ(run.exit_code, 0) << run.error;
    return run.exit_code == 0 ? nlohmann::json::parse(run.out).at("nll").get<double>() : NAN;
  };
  for (const auto& [model, windows, window] :
       {std::tuple("tiny-v32", 24, 1024), {"tiny-glm5", 16, 384}, {"tiny-v4", 8, 768}}) {
    const double cpu = likelihood(model, windows, window, "cpu"),
                 gpu = likelihood(model, windows, window, "cuda");
    fmt::print("{}: {} tokens, {:.6f} on the CPU, {:.6f} on the GPU\n", model, windows * window, cpu, gpu);
    EXPECT_LE(std::abs(gpu - cpu), 0.005) << model;
  }
}

}  // namespace
}  // namespace fulgurite
