// Whole models on a GPU: the machine's, or, in a build without its kernels, the generic rows as loops on the host
// (test/gpu.h). Generic rows sum as the references do: what differs comes from another library's exp.

#include "test/gpu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
      const auto found = logits_of(tiny.model, test::gpu(), options_of(numerics), some, 7);
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
      EXPECT_TRUE(operation.implementation.starts_with("cuda")) << operation.operation;
      EXPECT_TRUE(operation.within()) << recorded.name << " " << operation.operation;
    }
  }
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
