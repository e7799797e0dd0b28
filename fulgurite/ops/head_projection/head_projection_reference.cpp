#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes(numerics.mma, {Mma::kExact})});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 3> x = args.x.as<float>();
  const View<float, 3> y = args.y.as<float>();
  const bool from_rows = problem.direction == Direction::kFromRows;
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      const int64_t first = h * problem.rows_per_head + problem.first_row;
      for (int64_t n = 0; n < y.extent[2]; ++n) {
        double sum = 0.0;
        for (int64_t i = 0; i < x.extent[2]; ++i)
          sum += static_cast<double>(x(t, h, i)) * (from_rows ? exact_element(*args.weight, first + i, n)
                                                              : exact_element(*args.weight, first + n, i));
        y(t, h, n) = static_cast<float>(sum);
      }
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::head_projection
