// That the audit of head_projection can say no.

#include "fulgurite/ops/head_projection/head_projection_audit.h"

#include "fulgurite/audit/tensors.h"
#include "test/spoiled.h"

namespace fulgurite::head_projection {
namespace {

void run_without_the_last_column(const Problem& problem, const Args& args, const Lane& lane) {
  const audit::OwnedTensor<3> x = audit::copy_of(args.x);
  for (int64_t i = 0; i < x.view().extent[0] * problem.heads; ++i)
    store(x.view(), 0.0f, i / problem.heads, i % problem.heads, x.view().extent[2] - 1);
  kReference.run(problem, {x.view(), args.weight, args.y}, lane);
}

TEST(head_projection, its_audit_rejects_what_is_moved_NaN_swapped_or_incomplete) {
  constexpr auto last_row = [](const Args& args) { return args.y[1][2]; };
  std::vector<Implementation> wrong = test::every_spoiled<kReference, last_row>();
  wrong.push_back({"incomplete", kReference.supports, no_workspace<Problem>, run_without_the_last_column});
  for (const Setting& setting : {test::fp32_setting(), test::serving_setting(), test::fp16_setting()}) {
    const DType type = activation_type(setting.numerics);
    for (const MatrixFormat& format : inputs::all_formats()) {
      for (const Direction direction : {Direction::kFromRows, Direction::kToRows}) {
        const bool from_rows = direction == Direction::kFromRows;
        const int64_t rows = 29, latent = 67, in = from_rows ? rows : latent, out = from_rows ? latent : rows;
        Random random(1);
        const inputs::Weight weight = inputs::make_weight(random, 3 * 40, latent, format);
        const auto x =
            inputs::make_tensor(random, inputs::Values::kNormal, type, std::array<int64_t, 3>{2, 3, in});
        const auto y = inputs::unwritten<3>(type, {2, 3, out});
        const Problem problem{setting, direction, 3, 40, 5, rows, latent, format, 2};
        const Args args{x.view, &weight.matrix, y.view};
        EXPECT_TRUE(judge(kReference, problem, args, {}).within());
        for (const Implementation& row : wrong)
          EXPECT_TRUE(test::rejects(judge(row, problem, args, {}), 0)) << row.name;
      }
    }
  }
}

}  // namespace
}  // namespace fulgurite::head_projection
