#include <cmath>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {
namespace {

Support supports(const Problem& problem) {
  const Numerics& n = problem.setting.numerics;
  Support routed, shared;
  if (problem.experts > 0) routed = linear::kReference.supports(gate_problem(problem, Part::kRouted));
  if (problem.shared_width > 0) shared = linear::kReference.supports(gate_problem(problem, Part::kShared));
  return first_refusal(
      {takes(n.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}), routed, shared});
}

// A row of activations.
struct Row {
  std::vector<float> memory;  // enough for either type
  Tensor<2> view;             // [1, width]

  Row(const Problem& problem, int64_t width) : memory(static_cast<size_t>(width)) {
    view = View<float, 2>(memory.data(), {1, width});
    view.dtype = activation_type(problem);
  }
};

Row product(const Problem& problem, const linear::Problem& linear, const ConstTensor<2>& x,
            const PreparedMatrix& weight) {
  Row y(problem, linear.out);
  linear::kReference.run(linear, {x, &weight, y.view}, {});
  return y;
}

float silu(float g) { return g / (1.0f + static_cast<float>(std::exp(-static_cast<double>(g)))); }

float at_most(float g, float limit) { return g > limit ? limit : g; }
float clamped(float u, float limit) { return u < -limit ? -limit : at_most(u, limit); }

// `weight` is multiplied before down.
Row apply(const Problem& problem, Part part, const Mlp& mlp, const ConstTensor<2>& x, float weight) {
  const linear::Problem into = gate_problem(problem, part), back = down_problem(problem, part);
  const Row gate = product(problem, into, x, mlp.gate);
  const Row up = product(problem, into, x, mlp.up);
  const Row hidden(problem, into.out);
  const float limit = limit_of(problem, part);
  for (int64_t i = 0; i < into.out; ++i) {
    const float product = silu(at_most(load(gate.view, 0, i), limit)) * clamped(load(up.view, 0, i), limit);
    store(hidden.view, product * weight, 0, i);
  }
  return product(problem, back, hidden.view, mlp.down);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.x.extent[0]; ++t) {
    const ConstTensor<2> x = args.x.slice(0, t, 1);
    std::vector<float> y(static_cast<size_t>(problem.hidden), 0.0f);
    const auto value = [&](int64_t i) -> float& { return y[static_cast<size_t>(i)]; };
    for (int64_t j = 0; j < args.expert_ids.extent[1]; ++j) {
      const Mlp& expert = args.experts[static_cast<size_t>(args.expert_ids(t, j))];
      const float weight = args.expert_weights(t, j), before = problem.weight_before_down ? weight : 1.0f,
                  after = problem.weight_before_down ? 1.0f : weight;
      const Row one = apply(problem, Part::kRouted, expert, x, before);
      for (int64_t i = 0; i < problem.hidden; ++i) value(i) = std::fma(after, load(one.view, 0, i), value(i));
    }
    if (args.shared != nullptr) {
      const Row one = apply(problem, Part::kShared, *args.shared, x, 1.0f);
      for (int64_t i = 0; i < problem.hidden; ++i) value(i) += load(one.view, 0, i);
    }
    for (int64_t i = 0; i < problem.hidden; ++i) store(args.out, value(i), t, i);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::experts
