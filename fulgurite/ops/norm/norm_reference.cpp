#include "fulgurite/core/element.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.norm_input, {NormInput::kUnrounded, NormInput::kRounded}),
                        takes_rsqrt(problem.setting)});
}

float residual(const Args& args, int64_t t, int64_t i) {
  if (args.replaced) return args.replaced(t, i);
  return args.added ? load(args.x, t, i) + load(args.added, t, i) : load(args.x, t, i);
}

// What the norm reads of it.
float normed(const Problem& problem, const Args& args, float s) {
  return problem.setting.numerics.norm_input == NormInput::kRounded ? round_to(args.out.dtype, s) : s;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.out.extent[0]; ++t) {
    double squares = 0.0;
    for (int64_t i = 0; i < problem.width; ++i) {
      const double s = normed(problem, args, residual(args, t, i));
      squares += s * s;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(problem.width));
    const float r = reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
    for (int64_t i = 0; i < problem.width; ++i) {
      const float s = residual(args, t, i);
      if (args.sum) store(args.sum, s, t, i);
      store(args.out, args.weight(i) * (normed(problem, args, s) * r), t, i);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::norm
