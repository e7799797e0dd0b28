// That the audit of compressed_attention can say no.

#include "fulgurite/ops/compressed_attention/compressed_attention_audit.h"

#include "fulgurite/ops/compressed_attention/test_inputs.h"
#include "test/spoiled.h"

namespace fulgurite::compressed_attention {
namespace {

void run_with_half_the_sink(const Problem& problem, const Args& args, const Lane& lane) {
  std::vector<float> sinks;
  for (int64_t h = 0; h < problem.heads; ++h) sinks.push_back(args.sink(h) - 0.5f);
  Args wrong = args;
  wrong.sink = {sinks.data(), {problem.heads}};
  kReference.run(problem, wrong, lane);
}

void run_without_the_oldest_position(const Problem& problem, const Args& args, const Lane& lane) {
  Problem wrong = problem;
  --wrong.window;
  kReference.run(wrong, args, lane);
}

void run_without_rotating_back(const Problem& problem, const Args& args, const Lane& lane) {
  const std::vector<float> ones(static_cast<size_t>(problem.rope), 1.0f), zeros(ones.size(), 0.0f);
  Args wrong = args;
  wrong.table = {{ones.data(), args.table.cosine.extent, {0, 1}},
                 {zeros.data(), args.table.sine.extent, {0, 1}}};
  kReference.run(problem, wrong, lane);
}

TEST(compressed_attention, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_row = [](const Args& args) { return args.out[0][2]; };
  std::vector<Implementation> wrong = test::every_spoiled<kReference, last_row>();
  for (const auto run : {run_with_half_the_sink, run_without_the_oldest_position, run_without_rotating_back})
    wrong.push_back({"incomplete", kReference.supports, no_workspace<Problem>, run});
  for (const Way& way : fast_ways()) {
    const Inputs in = make_inputs(1, {"", 1, 3, 66, 14, 20, 4, 10, 1, 90}, Values::kNormal, way.setting);
    const TensorBuffer<3> out = in.unwritten();
    EXPECT_TRUE(judge(kReference, in.problem, in.args(out.view), {}).within());
    for (const Implementation& row : wrong)
      EXPECT_TRUE(test::rejects(judge(row, in.problem, in.args(out.view), {}), 0))
          << row.name << ", " << summary(way.setting.numerics);
  }
}

}  // namespace
}  // namespace fulgurite::compressed_attention
