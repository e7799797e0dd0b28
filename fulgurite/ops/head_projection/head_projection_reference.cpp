#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/head_projection/head_projection.h"

namespace fulgurite::head_projection {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  const bool hopper = numerics.mma == Mma::kHopper;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
       takes(numerics.mma, {Mma::kExact, Mma::kHopper}),
       hopper ? on_tensor_cores(takes(numerics.activation, {Activation::kBf16})) : Support{}});
}

void run_on_tensor_cores(const Problem& problem, const Args& args) {
  const bool from_rows = problem.direction == Direction::kFromRows;
  const int64_t tokens = args.x.extent[0], in = args.x.extent[2];
  for (int64_t h = 0; h < problem.heads; ++h) {
    const int64_t first = h * problem.rows_per_head + problem.first_row;
    std::vector<std::vector<MmaFactor>> x;
    for (int64_t t = 0; t < tokens; ++t)
      x.push_back(mma_factors(MmaType::kBf16, in, [&](int64_t i) { return load(args.x, t, h, i); }));
    for (int64_t n = 0; n < args.y.extent[2]; ++n) {
      const auto weight = mma_factors(MmaType::kBf16, in, [&](int64_t i) {
        const int64_t row = from_rows ? first + i : first + n, column = from_rows ? n : i;
        return static_cast<float>(element(*args.weight, reading_of(problem), row, column));
      });
      for (int64_t t = 0; t < tokens; ++t)
        store(args.y, mma_sum(MmaType::kBf16, x[static_cast<size_t>(t)], weight), t, h, n);
    }
  }
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  if (problem.setting.numerics.mma == Mma::kHopper) return run_on_tensor_cores(problem, args);
  const bool from_rows = problem.direction == Direction::kFromRows;
  for (int64_t h = 0; h < problem.heads; ++h) {
    const int64_t first = h * problem.rows_per_head + problem.first_row;
    std::vector<double> x;  // [tokens, in]
    for (int64_t t = 0; t < args.x.extent[0]; ++t)
      for (int64_t i = 0; i < args.x.extent[2]; ++i) x.push_back(load(args.x, t, h, i));
    for (int64_t n = 0; n < args.y.extent[2]; ++n) {
      std::vector<double> weight;
      for (int64_t i = 0; i < args.x.extent[2]; ++i) {
        const int64_t row = from_rows ? first + i : first + n, column = from_rows ? n : i;
        weight.push_back(element(*args.weight, reading_of(problem), row, column));
      }
      for (int64_t t = 0; t < args.x.extent[0]; ++t) {
        const double* const row = x.data() + static_cast<size_t>(t) * weight.size();
        double sum = 0.0;
        for (size_t i = 0; i < weight.size(); ++i) sum += row[i] * weight[i];
        store(args.y, static_cast<float>(sum), t, h, n);
      }
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::head_projection
