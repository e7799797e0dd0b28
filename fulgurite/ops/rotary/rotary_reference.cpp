#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) {
  return takes(problem.setting.numerics.activation, {Activation::kFp32});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<float, 3> x = args.x.as<float>();
  const bool interleaved = problem.layout == Layout::kInterleaved;
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    const int64_t p = args.places(t).position;
    for (int64_t h = 0; h < problem.heads; ++h) {
      for (int64_t i = 0; i < problem.dim / 2; ++i) {
        float& first = interleaved ? x(t, h, 2 * i) : x(t, h, i);
        float& second = interleaved ? x(t, h, 2 * i + 1) : x(t, h, i + problem.dim / 2);
        const float a = first, b = second;
        first = a * args.table.cosine(p, i) - b * args.table.sine(p, i);
        second = a * args.table.sine(p, i) + b * args.table.cosine(p, i);
      }
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::rotary
