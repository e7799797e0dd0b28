// Whole models on a GPU: the machine's, or, in a build without its kernels, the generic rows as loops on the host
// (test/gpu.h). Generic rows sum as the references do: what differs comes from another library's exp.

#include "test/gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>

#include "test/other_weights.h"
#include "test/tiny_model.h"

namespace fulgurite {
namespace {

constexpr int64_t kTokens = 24;

std::vector<float> logits_of(const model::Model& model, const Device& device, plan::Options options,
                             std::span<const int32_t> ids, int64_t chunk) {
  execute::Session session(model, plan::make(model, device, options));
  std::vector<float> all;
  for (size_t first = 0; first < ids.size(); first += static_cast<size_t>(chunk)) {
    const auto part = ids.subspan(first, std::min(static_cast<size_t>(chunk), ids.size() - first));
    const View<const float, 2> logits = session.forward(0, part);
    all.insert(all.end(), logits.data, logits.data + logits.size());
  }
  return all;
}

plan::Options options_of(const Numerics& numerics) {
  plan::Options options = test::trace_options(numerics, kTokens, kTokens);
  options.tracing = plan::Tracing::kOff;
  return options;
}

TEST(gpu, generic_rows_compute_what_the_references_do) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const auto some = std::span(ids).first(kTokens);
    for (const Numerics& numerics : test::kPresets) {
      plan::Options references = options_of(numerics);
      references.candidates = plan::Candidates::kReferencesOnly;
      const auto expected = logits_of(tiny.model, test::device(2), references, some, kTokens);
      Device gpu = test::gpu();
      gpu.target.sm = 80;  // no row of Hopper takes it
      const auto found = logits_of(tiny.model, gpu, options_of(numerics), some, 7);
      const bool exact = !cuda::is_built();
      EXPECT_LE(test::distance(found, expected), exact ? 0.0 : 2e-3)
          << recorded.name << " " << summary(numerics);
    }
  }
}

TEST(gpu, chunks_and_runs_have_the_same_bits) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const auto some = std::span(ids).first(kTokens);
    const auto run = [&](int64_t chunk) {
      return logits_of(tiny.model, test::gpu(), options_of(Numerics::serving()), some, chunk);
    };
    const std::vector<float> whole = run(kTokens);
    EXPECT_EQ(run(kTokens), whole) << recorded.name;
    EXPECT_EQ(run(7), whole) << recorded.name;
    EXPECT_EQ(run(1), whole) << recorded.name;
  }
}

TEST(gpu, a_traced_session_holds_what_an_untraced_one_does) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  const auto some = std::span(ids).first(kTokens);
  plan::Options traced = options_of(Numerics::serving());
  traced.tracing = plan::Tracing::kOn;
  EXPECT_EQ(logits_of(tiny.model, test::gpu(), traced, some, kTokens),
            logits_of(tiny.model, test::gpu(), options_of(Numerics::serving()), some, kTokens));
}

// Copies that rows read in another form, and what recordings point at, are remade in their places.
TEST(gpu, a_session_with_new_weights_is_a_fresh_one) {
  const test::TinyModel tiny;
  test::EditedCheckpoint edited;
  const test::OtherModel other(test::directory_of_other_weights(edited));
  const auto ids = test::golden_ids(0);
  const auto pass = [&](execute::Session& session) {
    const View<const float, 2> logits = session.forward(0, std::span(ids).first(20));
    return std::vector<float>(logits.data, logits.data + logits.size());
  };
  execute::Session session(tiny.model, plan::make(tiny.model, test::gpu(), options_of(Numerics::serving())));
  execute::Session fresh(other.model, plan::make(other.model, test::gpu(), options_of(Numerics::serving())));
  const std::vector<float> before = pass(session), expected = pass(fresh);
  session.update_weights(other.model);
  EXPECT_EQ(pass(session), expected);
  session.update_weights(tiny.model);
  EXPECT_EQ(pass(session), before);
  EXPECT_NE(before, expected);
}

TEST(gpu, a_session_that_does_not_trace_cannot_be_looked_into) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  execute::Session session(tiny.model, plan::make(tiny.model, test::gpu(), options_of(Numerics::serving())));
  audit::Trace trace(0, 1, 1);
  try {
    session.forward(0, std::span(ids).first(1), &trace);
    FAIL() << "it was looked into";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), testing::HasSubstr("Tracing::kOn"));
  }
}

TEST(gpu, an_audit_holds_every_row_against_its_reference) {
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const audit::AuditReport report = audit::run_audit(tiny.model, test::gpu(), plan::Options{},
                                                       std::span(ids).first(kTokens + 1), {2, false}, {});
    for (const audit::OperationResult& operation : report.operations) {
      EXPECT_THAT(operation.implementation, testing::StartsWith("cuda")) << operation.operation;
      EXPECT_TRUE(operation.within()) << recorded.name << " " << operation.operation;
    }
  }
}

// Nothing is compiled, loaded or allocated when tokens arrive.
TEST(gpu, a_session_is_ready_when_it_is_made) {
  if (!cuda::is_built()) GTEST_SKIP() << "loops on the host say nothing of a GPU";
  using Clock = std::chrono::steady_clock;
  const auto seconds_since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    plan::Options options = options_of(Numerics::serving());
    options.context = 64;
    options.logits = plan::LogitRows::kLast;
    const plan::Plan plan = plan::make(tiny.model, test::gpu(), options);
    const auto start = Clock::now();
    execute::Session session(tiny.model, plan);
    EXPECT_LT(seconds_since(start), 1.0) << recorded.name << ": the upload of these models takes little";
    // The first token of the model is sampled, that of the next model chosen greedily.
    execute::Sampler sampler({&recorded == test::kRecorded ? 0.7 : 0.0, 0.95, 0, 1}, plan.config.vocabulary);
    std::vector<double> steps;
    for (size_t t = 0; t < 33; ++t) {
      const auto begin = Clock::now();
      session.next_token(0, std::span(ids).subspan(t, 1), &sampler);
      steps.push_back(seconds_since(begin));
    }
    const double first = steps.front();
    std::ranges::sort(steps);
    RecordProperty(std::string(recorded.name) + "_first_us", static_cast<int>(first * 1e6));
    EXPECT_LT(first, 2.0 * steps[steps.size() / 2] + 1e-4) << recorded.name;
  }
}

// Of these models K has as many parts either way, so that each row's sums are the same.
TEST(gpu, one_product_of_q_a_and_kv_a_has_the_bits_of_two) {
  if (!test::has_hopper()) GTEST_SKIP() << "needs Hopper's kernels and a GPU of compute capability 9.0";
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const auto some = std::span(ids).first(kTokens);
    plan::Options options = options_of(Numerics::serving());
    const auto together = logits_of(tiny.model, test::gpu(), options, some, 7);
    options.demands = {plan::parse_demand(plan::DemandKind::kForbid, "linear qkv_a:cuda_hopper")};
    EXPECT_EQ(logits_of(tiny.model, test::gpu(), options, some, 7), together) << recorded.name;
  }
}

// What the rows of Hopper state (Implementation::states) a reference repeats, bit for bit: on a model's own activations, in a
// context longer than its top k.
TEST(gpu, the_indexer_has_the_bits_of_its_references) {
  if (!test::has_hopper()) GTEST_SKIP() << "needs Hopper's kernels and a GPU of compute capability 9.0";
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  const audit::AuditReport report =
      audit::run_audit(tiny.model, test::gpu(), plan::Options{}, std::span(ids).first(193), {64, false}, {});
  int64_t rows = 0;
  for (const audit::OperationResult& operation : report.operations) {
    if (!operation.operation.starts_with("index") || operation.implementation != "cuda_hopper") continue;
    rows += 1;
    for (const audit::Judged& output : operation.judged)
      EXPECT_TRUE(output.beyond == 0 && output.worst_share == 0.0 && output.relative_l2 == 0.0)
          << operation.layer << " " << operation.operation << " " << output.name;
  }
  EXPECT_EQ(rows, 3 * tiny.model.config.layers);
}

// Logits of `steps` tokens, each chosen by the one before, after a prompt.
std::vector<std::vector<float>> decode(const model::Model& model, const Device& device, plan::Options options,
                                       std::span<const int32_t> prompt, int64_t steps) {
  options.context = std::ssize(prompt) + steps;
  options.logits = plan::LogitRows::kLast;
  execute::Session session(model, plan::make(model, device, options));
  std::vector<std::vector<float>> all;
  std::vector<int32_t> next(prompt.begin(), prompt.end());
  for (int64_t step = 0; step <= steps; ++step) {
    for (size_t first = 0; first < next.size(); first += static_cast<size_t>(options.chunk_tokens)) {
      const size_t count = std::min(static_cast<size_t>(options.chunk_tokens), next.size() - first);
      const View<const float, 1> logits = session.forward(0, std::span(next).subspan(first, count))[0];
      if (first + count < next.size()) continue;
      all.emplace_back(logits.data, logits.data + logits.extent[0]);
    }
    next = {static_cast<int32_t>(std::ranges::max_element(all.back()) - all.back().begin())};
  }
  return all;
}

// The prompt's last pass is padded: 30 tokens to 32, or 10 to 16.
TEST(gpu, recorded_passes_have_the_bits_of_eager_ones) {
  const bool fast = cuda::is_built();  // loops on the host take their time
  const int64_t prompt = fast ? 150 : 26, steps = fast ? 100 : 2;
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    const auto some = std::span(ids).first(static_cast<size_t>(prompt));
    plan::Options options = options_of(Numerics::serving());
    options.chunk_tokens = fast ? 60 : 16;
    const auto found = decode(tiny.model, test::gpu(), options, some, steps);
    options.passes = plan::Passes::kEager;
    EXPECT_EQ(decode(tiny.model, test::gpu(), options, some, steps), found) << recorded.name;
  }
}

// Every kernel of a layer, in a context longer than the top k, on grids of so many multiprocessors.
TEST(gpu, a_thousand_passes_have_the_same_bits) {
  if (!cuda::is_built()) GTEST_SKIP() << "loops on the host have one order";
  const int64_t passes = test::has_hopper() ? 1000 : 10;  // generic rows take their time
  for (const test::Recorded& recorded : test::kRecorded) {
    const test::TinyModel tiny(recorded.directory());
    const auto ids = test::golden_ids(0, recorded.golden());
    plan::Options options = options_of(Numerics::serving());
    options.context = options.chunk_tokens = 192;
    options.logits = plan::LogitRows::kLast;
    std::vector<float> first;
    for (const int multiprocessors : {132, 66, 7}) {
      Device device = test::gpu();
      device.target.multiprocessors = multiprocessors;
      execute::Session session(tiny.model, plan::make(tiny.model, device, options));
      int64_t differ = 0;
      for (int64_t pass = 0; pass < passes; ++pass) {
        session.reset(0);
        session.forward(0, std::span(ids).first(191));
        const View<const float, 1> logits = session.forward(0, std::span(ids).subspan(191, 1))[0];
        const std::vector<float> now(logits.data, logits.data + logits.extent[0]);
        if (first.empty()) first = now;
        differ += now != first;
      }
      EXPECT_EQ(differ, 0) << recorded.name << ", " << multiprocessors << " multiprocessors";
    }
  }
}

TEST(gpu, no_bit_depends_on_the_number_of_multiprocessors) {
  if (!cuda::is_built()) GTEST_SKIP() << "loops on the host have none";
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  const auto run = [&](int multiprocessors) {
    Device device = test::gpu();
    device.target.multiprocessors = multiprocessors;
    return decode(tiny.model, device, options_of(Numerics::serving()), std::span(ids).first(200), 10);
  };
  const auto whole = run(132);
  EXPECT_EQ(run(66), whole);
  EXPECT_EQ(run(7), whole);
}

// Two sequences that grow in turns take pages in turns; then a second one takes those that the first gave back, in another order.
TEST(gpu, no_bit_depends_on_the_order_of_pages) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  plan::Options options = options_of(Numerics::serving());
  options.context = 80;
  options.chunk_tokens = 25;
  options.sequences = 2;
  execute::Session session(tiny.model, plan::make(tiny.model, test::gpu(), options));
  const auto part = [&](int64_t first) { return std::span(ids).subspan(static_cast<size_t>(first), 25); };
  std::vector<std::vector<float>> one, two, again;
  const auto keep = [](std::vector<std::vector<float>>& to, View<const float, 2> logits) {
    to.emplace_back(logits.data, logits.data + logits.size());
  };
  for (const int64_t first : {0, 25, 50}) {
    keep(one, session.forward(0, part(first)));
    keep(two, session.forward(1, part(first)));
  }
  session.reset(0);
  session.reset(1);
  for (const int64_t first : {0, 25, 50}) keep(again, session.forward(1, part(first)));
  EXPECT_EQ(two, one);
  EXPECT_EQ(again, one);
}

TEST(gpu, a_pool_without_a_free_page_refuses_the_pass_and_changes_nothing) {
  const test::TinyModel tiny;
  const auto ids = test::golden_ids(0);
  plan::Options options = options_of(Numerics::serving());
  options.context = 192;
  options.sequences = 2;
  options.pages = 2;
  execute::Session session(tiny.model, plan::make(tiny.model, test::gpu(), options));
  session.forward(0, std::span(ids).first(20));
  session.forward(1, std::span(ids).first(20));
  for (const int64_t count : {20, 20}) session.forward(0, std::span(ids).first(static_cast<size_t>(count)));
  try {
    session.forward(0, std::span(ids).first(10));
    FAIL() << "there was a page";
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "0 pages of 64 tokens are free (of 2), this pass needs 1 more: reset a sequence");
  }
  EXPECT_EQ(session.length(0), 60);
  session.reset(1);
  session.forward(0, std::span(ids).first(10));
  EXPECT_EQ(session.length(0), 70);
}

TEST(gpu, a_build_without_its_kernels_says_so) {
  if (cuda::is_built()) GTEST_SKIP() << "this build has them";
  try {
    cuda::device();
    FAIL() << "there is one";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kDevice);
    EXPECT_THAT(error.what(), testing::HasSubstr("no CUDA kernels"));
  }
}

}  // namespace
}  // namespace fulgurite
