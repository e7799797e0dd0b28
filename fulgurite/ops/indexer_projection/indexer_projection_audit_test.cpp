// That the audit of indexer_projection can say no, of either output.

#include "fulgurite/ops/indexer_projection/indexer_projection_audit.h"

#include "fulgurite/audit/tensors.h"
#include "test/spoiled.h"

namespace fulgurite::indexer_projection {
namespace {

void run_without_the_last_column(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> x = audit::copy_of(args.x);
  for (int64_t t = 0; t < x.view().extent[0]; ++t) store(x.view(), 0.0f, t, problem.hidden - 1);
  Args incomplete = args;
  incomplete.x = x.view();
  kReference.run(problem, incomplete, lane);
}

TEST(indexer_projection, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_k = [](const Args& args) { return args.k[2]; };
  constexpr auto last_gate = [](const Args& args) { return Tensor<2>(args.gate)[2]; };
  Setting fp8 = test::serving_setting(), bf16_gate = fp8;
  fp8.numerics.indexer_wk = IndexerWk::kFp8;
  bf16_gate.numerics.gate = Gate::kBf16;
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting(), fp8, bf16_gate}) {
    const DType type = setting.numerics.activation == Activation::kFp32 ? DType::kF32 : DType::kBF16;
    Random random(1);
    const inputs::Weight wk =
        inputs::make_weight(random, 17, 131, {MatrixForm::kE4M3Blocks, {128, 128}, ScaleFormat::kF32});
    const inputs::Weight gate_weight = inputs::make_weight(random, 9, 131, {MatrixForm::kF32, {}, {}});
    const auto x = inputs::make_tensor(random, inputs::Values::kNormal, type, std::array<int64_t, 2>{3, 131});
    const auto k = inputs::unwritten<2>(type, {3, 17}), gate = inputs::unwritten<2>(DType::kF32, {3, 9});
    const Problem problem{setting, 131, 17, 9, format_of(wk.matrix), format_of(gate_weight.matrix), 3};
    const Args args{x.view, &wk.matrix, &gate_weight.matrix, k.view, gate.view.as<float>()};
    EXPECT_TRUE(judge(kReference, problem, args, {}).within());
    for (const Implementation& row : test::every_spoiled<kReference, last_k>())
      EXPECT_TRUE(test::rejects(judge(row, problem, args, {}), 0));
    for (const Implementation& row : test::every_spoiled<kReference, last_gate>())
      EXPECT_TRUE(test::rejects(judge(row, problem, args, {}), 1));
    Implementation incomplete = kReference;
    incomplete.run = run_without_the_last_column;
    for (const audit::OutputReport& output : judge(incomplete, problem, args, {}).outputs)
      EXPECT_FALSE(output.difference.within()) << output.name;
  }
}

}  // namespace
}  // namespace fulgurite::indexer_projection
