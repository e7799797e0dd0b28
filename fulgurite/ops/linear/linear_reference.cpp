#include "fulgurite/ops/linear/linear.h"

namespace fulgurite::linear {
namespace {

Support supports(const Problem& problem) { return sums_of_exact_weights(problem); }

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 2> x = args.x.as<float>();
  const View<float, 2> y = args.y.as<float>();
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    for (int64_t n = 0; n < problem.out; ++n) {
      double sum = 0.0;
      for (int64_t i = 0; i < problem.in; ++i)
        sum += static_cast<double>(x(t, i)) * exact_element(*args.weight, n, i);
      y(t, n) = static_cast<float>(sum);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::linear
