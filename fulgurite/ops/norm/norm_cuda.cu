#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::norm {
namespace {

Support supports(const Problem& problem) { return cuda::takes_generic(problem.setting); }

// Index: a token.
struct Norm {
  Problem problem;
  Args args;

  FULGURITE_HOST_DEVICE float residual(int64_t t, int64_t i) const {
    if (args.replaced) return args.replaced(t, i);
    return args.added ? load(args.x, t, i) + load(args.added, t, i) : load(args.x, t, i);
  }
  // What the norm reads of it.
  FULGURITE_HOST_DEVICE float read(float s) const {
    return problem.setting.numerics.norm_input == NormInput::kRounded ? round_to(args.out.dtype, s) : s;
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t t) const {
    double squares = 0.0;
    for (int64_t i = 0; i < problem.width; ++i) {
      const double s = read(residual(t, i));
      squares += s * s;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(problem.width));
    const float r = cuda::reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
    for (int64_t i = 0; i < problem.width; ++i) {
      const float s = residual(t, i);
      if (args.sum) store(args.sum, s, t, i);
      store(args.out, args.weight(i) * (read(s) * r), t, i);
    }
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::for_each(lane, args.out.extent[0], Norm{problem, args});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::norm
