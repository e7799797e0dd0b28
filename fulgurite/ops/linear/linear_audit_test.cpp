// That the audit of linear can say no.

#include "fulgurite/ops/linear/linear_audit.h"

#include "fulgurite/audit/tensors.h"
#include "test/spoiled.h"

namespace fulgurite::linear {
namespace {

void run_without_the_last_column(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> x = audit::copy_of(args.x);
  for (int64_t t = 0; t < x.view().extent[0]; ++t) store(x.view(), 0.0f, t, problem.in - 1);
  kReference.run(problem, {x.view(), args.weight, args.y}, lane);
}

TEST(linear, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_row = [](const Args& args) { return args.y[args.y.extent[0] - 1]; };
  std::vector<Implementation> wrong = test::every_spoiled<kReference, last_row>();
  wrong.push_back({"incomplete", kReference.supports, no_workspace<Problem>, run_without_the_last_column});
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting()}) {
    const bool fp32 = setting.numerics.activation == Activation::kFp32;
    for (const MatrixForm form : {MatrixForm::kBF16, MatrixForm::kE4M3Blocks}) {
      for (const Output output : {Output::kActivation, Output::kF32}) {
        Random random(1);
        const inputs::Weight weight = inputs::make_weight(random, 17, 131, {form, {128, 128}, {}});
        const auto x = inputs::make_tensor(random, inputs::Values::kNormal, fp32 ? DType::kF32 : DType::kBF16,
                                           std::array<int64_t, 2>{3, 131});
        const Problem problem{setting, 131, 17, format_of(weight.matrix), output, 3};
        const bool wide = fp32 || output == Output::kF32;
        const auto y = inputs::unwritten<2>(wide ? DType::kF32 : DType::kBF16, {3, 17});
        const Args args{x.view, &weight.matrix, y.view};
        EXPECT_TRUE(judge(kReference, problem, args, {}).within());
        for (const Implementation& row : wrong)
          EXPECT_TRUE(test::rejects(judge(row, problem, args, {}), 0)) << row.name;
      }
    }
  }
}

void run_without_denormals(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<2> x(args.x.dtype, args.x.extent);  // zeros
  kReference.run(problem, {x.view(), args.weight, args.y}, lane);
}

TEST(linear, its_audit_lets_only_an_instruction_set_that_flushes_denormals_take_them_as_zeros) {
  Random random(1);
  const inputs::Weight weight = inputs::make_weight(random, 17, 131, {MatrixForm::kBF16, {}, {}});
  const auto x =
      inputs::make_tensor(random, inputs::Values::kDenormal, DType::kBF16, std::array<int64_t, 2>{3, 131});
  const auto y = inputs::unwritten<2>(DType::kBF16, {3, 17});
  const Implementation flushing{"flushing", kReference.supports, no_workspace<Problem>,
                                run_without_denormals};
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmx}) {
    const Problem problem{test::serving_setting(isa), 131, 17, format_of(weight.matrix),
                          Output::kActivation,        3};
    const audit::OpReport report = judge(flushing, problem, {x.view, &weight.matrix, y.view}, {});
    EXPECT_EQ(report.within(), isa >= Isa::kAvx512Bf16) << name(isa);
  }
}

}  // namespace
}  // namespace fulgurite::linear
