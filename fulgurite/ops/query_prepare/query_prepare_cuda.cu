#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::query_prepare {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// Index: a head of a token, normed and rounded where it lies, then rotated there.
struct Prepare {
  Problem problem;
  Args args;

  FULGURITE_HOST_DEVICE void norm(int64_t t, int64_t h) const {
    double squares = 0.0;
    for (int64_t i = 0; i < problem.head_dim; ++i) {
      const double value = load(args.q, t, h, i);
      squares += value * value;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(problem.head_dim));
    const float r = cuda::reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
    for (int64_t i = 0; i < problem.head_dim; ++i) {
      store(args.q, load(args.q, t, h, i) * r, t, h, i);
      if (args.normed) args.normed(t, h, i) = load(args.q, t, h, i);
    }
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / problem.heads, h = index % problem.heads;
    norm(t, h);
    const int64_t position = args.places(t).position;
    for (int64_t i = 0; i < problem.rope / 2; ++i) {
      const int64_t first = problem.head_dim - problem.rope + 2 * i;
      const float a = load(args.q, t, h, first), b = load(args.q, t, h, first + 1);
      const float c = args.table.cosine(position, i), s = args.table.sine(position, i);
      store(args.q, a * c - b * s, t, h, first);
      store(args.q, a * s + b * c, t, h, first + 1);
    }
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cuda::for_each(lane, args.q.extent[0] * problem.heads, Prepare{problem, args});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::query_prepare
