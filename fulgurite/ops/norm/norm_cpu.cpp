// The residual sum is left in `out` and scaled there. Its squares are summed in double, so that the mean is
// at most one fp32 step from the reference's.

#include <algorithm>

#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes_rsqrt(numerics.rsqrt)});
}

// One row; null where the operation has no such tensor.
struct Row {
  const float* x;
  const float* added;
  const float* weight;
  float* sum;
  float* out;
};

void residual(const Row& row, int64_t width) {
  if (row.added != nullptr)
    for (int64_t i = 0; i < width; ++i) row.out[i] = row.x[i] + row.added[i];
  else if (row.out != row.x)
    std::copy_n(row.x, width, row.out);
  if (row.sum != nullptr) std::copy_n(row.out, width, row.sum);
}

// Element i is summed in lane i % 8, then the lanes in ascending order.
double sum_of_squares(const float* s, int64_t width) {
  constexpr int64_t kLanes = 8;
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    for (int64_t l = 0; l < kLanes; ++l)
      lanes[l] += static_cast<double>(s[i + l]) * static_cast<double>(s[i + l]);
  for (; i < width; ++i) lanes[i % kLanes] += static_cast<double>(s[i]) * static_cast<double>(s[i]);
  double squares = 0.0;
  for (const double lane : lanes) squares += lane;
  return squares;
}

void norm_row(const Problem& problem, const Row& row) {
  residual(row, problem.width);
  const double squares = sum_of_squares(row.out, problem.width);
  const float mean = static_cast<float>(squares / static_cast<double>(problem.width));
  const float r = reciprocal_sqrt(mean + problem.eps, problem.setting.numerics.rsqrt);
  for (int64_t i = 0; i < problem.width; ++i) row.out[i] = row.weight[i] * (row.out[i] * r);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<const float, 2> x = args.replaced ? args.replaced : args.x.as<float>();
  const bool adds = args.added && !args.replaced;
  const View<const float, 2> added = adds ? args.added.as<float>() : View<const float, 2>{};
  const View<float, 2> sum = args.sum ? args.sum.as<float>() : View<float, 2>{};
  const View<float, 2> out = args.out.as<float>();
  cpu::parallel_for(lane, out.extent[0], [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t)
      norm_row(problem, {x[t].data, added ? added[t].data : nullptr, args.weight.data,
                         sum ? sum[t].data : nullptr, out[t].data});
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::norm
