#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes_rsqrt(numerics.rsqrt)});
}

float residual(const Args& args, int64_t t, int64_t i) {
  if (args.replaced) return args.replaced(t, i);
  const float x = args.x.as<float>()(t, i);
  return args.added ? x + args.added.as<float>()(t, i) : x;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<float, 2> out = args.out.as<float>();
  for (int64_t t = 0; t < out.extent[0]; ++t) {
    double squares = 0.0;
    for (int64_t i = 0; i < problem.width; ++i) {
      const double s = residual(args, t, i);
      squares += s * s;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(problem.width));
    const float r = reciprocal_sqrt(mean + problem.eps, problem.setting.numerics.rsqrt);
    for (int64_t i = 0; i < problem.width; ++i) {
      const float s = residual(args, t, i);
      if (args.sum) args.sum.as<float>()(t, i) = s;
      out(t, i) = args.weight(i) * (s * r);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::norm
