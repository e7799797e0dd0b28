// That the audit of sparse_attention can say no.

#include "fulgurite/ops/sparse_attention/sparse_attention_audit.h"

#include "fulgurite/audit/tensors.h"
#include "fulgurite/ops/sparse_attention/test_inputs.h"
#include "test/spoiled.h"

namespace fulgurite::sparse_attention {
namespace {

void run_without_the_last_column(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> q_rope = audit::copy_of(args.q_rope);
  for (int64_t i = 0; i < q_rope.view().extent[0] * problem.heads; ++i)
    store(q_rope.view(), 0.0f, i / problem.heads, i % problem.heads, problem.rope - 1);
  Args incomplete = args;
  incomplete.q_rope = q_rope.view();
  kReference.run(problem, incomplete, lane);
}

void run_without_the_last_row(const Problem& problem, const Args& args, const Lane& lane) {
  std::vector<int32_t> lists;
  for (int64_t t = 0; t < args.selected.extent[0]; ++t) {
    for (int64_t j = 0; j < problem.topk; ++j) lists.push_back(args.selected(t, j));
    lists[static_cast<size_t>(t * problem.topk + selected_rows(args.selected[t]) - 1)] = -1;
  }
  Args incomplete = args;
  incomplete.selected = {lists.data(), args.selected.extent};
  kReference.run(problem, incomplete, lane);
}

TEST(sparse_attention, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_row = [](const Args& args) { return args.out[0][2]; };
  std::vector<Implementation> wrong = test::every_spoiled<kReference, last_row>();
  for (const auto run : {run_without_the_last_column, run_without_the_last_row})
    wrong.push_back({"incomplete", kReference.supports, no_workspace<Problem>, run});
  for (const Way& way : fast_ways()) {
    const Inputs in = make_inputs(1, {"", 1, 3, 67, 13, 70, 1, 90}, Values::kNormal, way.setting);
    const TensorBuffer<3> out = in.unwritten();
    EXPECT_TRUE(judge(kReference, in.problem, in.args(out.view), {}).within());
    for (const Implementation& row : wrong)
      EXPECT_TRUE(test::rejects(judge(row, in.problem, in.args(out.view), {}), 0))
          << row.name << ", " << summary(way.setting.numerics);
  }
}

void write_zeros(const Problem&, const Args& args, const Lane&) {
  audit::for_each_index<3>(args.out.extent, [&](auto... i) { store(args.out, 0.0f, i...); });
}

// Rows of 2^-127, of which any weights make 2^-127.
TEST(sparse_attention, its_audit_lets_only_an_instruction_set_that_flushes_denormals_take_them_as_zeros) {
  const Implementation flushing{"flushing", kReference.supports, no_workspace<Problem>, write_zeros};
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    Setting setting = serving_with(kBf16Cache);
    setting.target.isa = isa;
    const Inputs in = make_inputs(1, {"", 1, 3, 67, 13, 70, 1, 90}, Values::kNormal, setting);
    for (int64_t s = 0; s < 90; ++s) in.write(0, s, std::vector<float>(67 + 13, 0x1p-127f));
    const TensorBuffer<3> out = in.unwritten();
    const audit::OpReport report = judge(flushing, in.problem, in.args(out.view), {});
    EXPECT_EQ(report.within(), isa >= Isa::kAvx512Bf16) << name(isa);
  }
}

}  // namespace
}  // namespace fulgurite::sparse_attention
