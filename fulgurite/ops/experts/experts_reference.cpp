#include <cmath>
#include <vector>

#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {
namespace {

using Floats = std::vector<float>;

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}),
                        takes(numerics.activation_quant, {ActivationQuant::kNone}),
                        takes(numerics.mma, {Mma::kExact})});
}

Floats product(const PreparedMatrix& weight, View<const float, 1> x) {
  Floats y;
  for (int64_t n = 0; n < weight.out; ++n) {
    double sum = 0.0;
    for (int64_t i = 0; i < weight.in; ++i) sum += static_cast<double>(x(i)) * exact_element(weight, n, i);
    y.push_back(static_cast<float>(sum));
  }
  return y;
}

float silu(float g) { return g / (1.0f + static_cast<float>(std::exp(-static_cast<double>(g)))); }

Floats apply(const Mlp& mlp, View<const float, 1> x) {
  const Floats gate = product(mlp.gate, x);
  const Floats up = product(mlp.up, x);
  Floats hidden;
  for (size_t n = 0; n < gate.size(); ++n) hidden.push_back(silu(gate[n]) * up[n]);
  return product(mlp.down, {hidden.data(), {static_cast<int64_t>(hidden.size())}});
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 2> x = args.x.as<float>();
  const View<float, 2> out = args.out.as<float>();
  for (int64_t t = 0; t < x.extent[0]; ++t) {
    Floats y(static_cast<size_t>(problem.hidden), 0.0f);
    for (int64_t j = 0; j < args.expert_ids.extent[1]; ++j) {
      const Floats one = apply(args.experts[static_cast<size_t>(args.expert_ids(t, j))], x[t]);
      for (size_t i = 0; i < y.size(); ++i) y[i] = std::fma(args.expert_weights(t, j), one[i], y[i]);
    }
    if (args.shared != nullptr) {
      const Floats one = apply(*args.shared, x[t]);
      for (size_t i = 0; i < y.size(); ++i) y[i] += one[i];
    }
    for (int64_t i = 0; i < problem.hidden; ++i) out(t, i) = y[static_cast<size_t>(i)];
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::experts
