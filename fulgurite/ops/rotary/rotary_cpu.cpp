#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/rotary/rotary.h"

namespace fulgurite::rotary {
namespace {

Support supports(const Problem& problem) {
  return takes(problem.setting.numerics.activation, {Activation::kFp32});
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const View<float, 3> x = args.x.as<float>();
  const int64_t vectors = x.extent[0] * problem.heads;
  cpu::parallel_for(lane, vectors, [&](int64_t begin, int64_t end, int) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t t = v / problem.heads, p = args.places(t).position;
      rotate(problem.layout, args.table.cosine[p].data, args.table.sine[p].data, problem.dim,
             x[t][v % problem.heads].data);
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::rotary
