#include "fulgurite/core/element.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) { return cuda::takes_generic(problem.setting); }

// Index: a pair of a head.
struct Rotate {
  Args args;
  int64_t pairs;
  bool interleaved;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t i = index % pairs, h = index / pairs % args.x.extent[1],
                  t = index / pairs / args.x.extent[1];
    const int64_t p = args.places(t).position;
    const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + pairs;
    const float a = load(args.x, t, h, first), b = load(args.x, t, h, second);
    const float c = args.table.cosine(p, i), s = args.table.sine(p, i);
    store(args.x, a * c - b * s, t, h, first);
    store(args.x, a * s + b * c, t, h, second);
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t pairs = problem.dim / 2;
  cuda::for_each(lane, args.x.extent[0] * problem.heads * pairs,
                 Rotate{args, pairs, problem.layout == Layout::kInterleaved});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::rotary
