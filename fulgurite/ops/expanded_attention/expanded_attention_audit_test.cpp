// That the audit of expanded_attention can say no.

#include "fulgurite/ops/expanded_attention/expanded_attention_audit.h"

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/expanded_attention/test_inputs.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"
#include "test/spoiled.h"

namespace fulgurite::expanded_attention {
namespace {

void run_without_the_last_column(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> q = audit::copy_of(args.q);
  for (int64_t i = 0; i < q.view().extent[0] * problem.heads; ++i)
    store(q.view(), 0.0f, i / problem.heads, i % problem.heads, problem.nope + problem.rope - 1);
  Args incomplete = args;
  incomplete.q = q.view();
  kReference.run(problem, incomplete, lane);
}

void run_without_the_last_row(const Problem& problem, const Args& args, const Lane& lane) {
  std::vector<int32_t> list(args.selected[0].data, args.selected[0].data + problem.topk);
  list[static_cast<size_t>(sparse_attention::selected_rows(args.selected[0]) - 1)] = -1;
  Args incomplete = args;
  incomplete.selected = {list.data(), {1, problem.topk}};
  kReference.run(problem, incomplete, lane);
}

TEST(expanded_attention, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_row = [](const Args& args) { return args.out[0][2]; };
  std::vector<Implementation> wrong = test::every_spoiled<kReference, last_row>();
  for (const auto run : {run_without_the_last_column, run_without_the_last_row})
    wrong.push_back({"incomplete", kReference.supports, no_workspace<Problem>, run});
  for (const Setting& setting : settings()) {
    const Inputs in = make_inputs(1, {"", 1, 3, 13, 7, 11, 67, 20, 1, 30}, kBlocks, Values::kNormal, setting);
    const TensorBuffer<3> out = in.unwritten();
    EXPECT_TRUE(judge(kReference, in.problem, in.args(out.view), {}).within());
    for (const Implementation& row : wrong)
      EXPECT_TRUE(test::rejects(judge(row, in.problem, in.args(out.view), {}), 0))
          << row.name << ", " << summary(setting.numerics);
  }
}

}  // namespace
}  // namespace fulgurite::expanded_attention
