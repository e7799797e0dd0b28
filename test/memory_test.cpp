// What a session holds beside the mapped weights.

#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fulgurite/audit/audit.h"
#include "test/counted_memory.h"
#include "test/op_test.h"
#include "test/other_weights.h"
#include "test/tiny_model.h"
#include "test/tool_run.h"

namespace fulgurite {
namespace {

// Anonymous memory while the session lives, against what the plan says.
nlohmann::json memory_of(const std::string& arguments) {
  const test::ToolRun run =
      test::run_tool("generate " + test::kTinyV32 + " --prompt 'It was' --json " + arguments);
  EXPECT_EQ(run.exit_code, 0) << run.error;
  return nlohmann::json::parse(run.out);
}

void expect_planned_memory(const std::string& numerics, int64_t row_bytes) {
  const nlohmann::json full =
      memory_of("--context 2048 --max-new-tokens 2000 --temperature 3 --top-p 1 --numerics " + numerics);
  const auto planned = full["planned_bytes"].get<int64_t>(),
             resident = full["anonymous_resident_bytes"].get<int64_t>();
  // Every cache row that was written is resident: what is measured is the session.
  const auto positions = static_cast<int64_t>(full["ids"].size());
  EXPECT_GT(positions, 200);
  EXPECT_GE(resident, positions * 4 * row_bytes);
  EXPECT_LE(resident, planned + 16'000'000);
}

TEST(memory, anonymous_memory_is_what_the_plan_says_and_sixteen_megabytes) {
  expect_planned_memory("fp32", (576 + 128) * 4);
  expect_planned_memory("serving", 656 + 132);
}

TEST(memory, weights_are_not_copied) {
  const nlohmann::json small = memory_of("--context 16 --max-new-tokens 8");
  // 14.8 MB of weights would stand out.
  EXPECT_LE(small["anonymous_resident_bytes"].get<int64_t>(),
            small["planned_bytes"].get<int64_t>() + 8'000'000);
}

#if FULGURITE_COUNTS_MEMORY
int64_t largest_tensor(const checkpoint::Checkpoint& checkpoint) {
  size_t largest = 0;
  for (const checkpoint::TensorView& tensor : checkpoint.tensors())
    largest = std::max(largest, tensor.bytes.size());
  return static_cast<int64_t>(largest);
}

// The most that is held at any time while `work` runs, beyond what was held before.
template <class Work>
int64_t most_held(const Work& work) {
  const int64_t before = test::counted_memory().bytes;
  test::begin_most();
  work();
  return test::counted_memory().most_bytes - before;
}

TEST(memory, the_counter_knows_the_most_that_was_held_and_what_is_left) {
  const int64_t before = test::counted_memory().bytes;
  const int64_t most = most_held([] {
    std::vector<char>(1'000'000);
    const HostBuffer small(500'000), large(20'000'000);
  });
  EXPECT_GE(most, 20'500'000);
  EXPECT_LE(most, 20'500'000 + (int64_t{2} << 20) + 20'000) << "a large page more, for the alignment";
  EXPECT_EQ(test::counted_memory().bytes, before);
}

// gate_weight = fp8 is what preparing quantizes today.
const char* const kPreparing[] = {"serving", "fp32", "serving,gate_weight=fp8"};

plan::Plan plan_of(const model::Model& model, const char* numerics) {
  plan::Options options;
  options.numerics = parse_numerics(numerics);
  return plan::make(model, test::device(1), options);
}

TEST(memory, preparing_holds_the_prepared_weights_and_never_a_tensor_more) {
  const test::TinyModel tiny;
  for (const char* const numerics : kPreparing) {
    const plan::Plan plan = plan_of(tiny.model, numerics);
    const int64_t most = most_held([&] { plan::prepare(tiny.model, plan); });
    EXPECT_GE(most, plan.bytes.prepared) << numerics;
    EXPECT_LE(most, plan.bytes.prepared + largest_tensor(tiny.checkpoint)) << numerics;
  }
}

TEST(memory, new_weights_are_prepared_where_the_old_ones_lay) {
  const test::TinyModel tiny;
  test::EditedCheckpoint edited;
  const test::OtherModel other(test::directory_of_other_weights(edited));
  for (const char* const numerics : kPreparing) {
    execute::Session session(tiny.model, plan_of(tiny.model, numerics));
    const int64_t before = test::counted_memory().bytes;
    const int64_t most = most_held([&] { session.update_weights(other.model); });
    EXPECT_LE(most, 100'000) << numerics << ": less than a tensor, and far from the prepared weights";
    EXPECT_EQ(test::counted_memory().bytes, before) << numerics;
  }
}

// What the noise of an audit runs: two sessions and all that is recorded of them, in passes of 128 tokens.
int64_t most_held_by_an_audit(const model::Model& model, int64_t tokens) {
  plan::Options options;
  options.numerics = parse_numerics("serving");
  const plan::Plan base = plan::make(model, test::device(2), audit::audit_options(options, tokens));
  options.numerics = audit::other_order(options.numerics);
  const plan::Plan other = plan::make(model, test::device(2), audit::audit_options(options, tokens));
  std::vector<int32_t> ids;
  for (int64_t i = 0; i <= tokens; ++i) ids.push_back(static_cast<int32_t>(2 + i * 37 % 2000));
  return most_held([&] { audit::compare_plans(model, other, base, ids); });
}

TEST(memory, an_audit_grows_with_the_context_and_not_with_its_square) {
  const test::TinyModel tiny(test::kTinyGlm5);
  const int64_t small = most_held_by_an_audit(tiny.model, 128),
                middle = most_held_by_an_audit(tiny.model, 256),
                large = most_held_by_an_audit(tiny.model, 384);
  EXPECT_GT(middle, small);
  EXPECT_LE(static_cast<double>(large - middle), 1.3 * static_cast<double>(middle - small))
      << small << " " << middle << " " << large;
}
#endif

}  // namespace
}  // namespace fulgurite
