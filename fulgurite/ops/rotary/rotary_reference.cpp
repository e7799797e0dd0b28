#include "fulgurite/core/element.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) {
  return takes(problem.setting.numerics.activation,
               {Activation::kFp32, Activation::kBf16, Activation::kFp16});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const int64_t pairs = problem.dim / 2;
  const bool interleaved = problem.layout == Layout::kInterleaved;
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    const int64_t p = args.places(t).position;
    for (int64_t h = 0; h < problem.heads; ++h) {
      for (int64_t i = 0; i < pairs; ++i) {
        const int64_t first = interleaved ? 2 * i : i, second = interleaved ? 2 * i + 1 : i + pairs;
        const float a = load(args.x, t, h, first), b = load(args.x, t, h, second);
        const float c = args.table.cosine(p, i), s = args.table.sine(p, i);
        store(args.x, a * c - b * s, t, h, first);
        store(args.x, a * s + b * c, t, h, second);
      }
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::rotary
