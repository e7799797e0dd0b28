#include "fulgurite/ops/experts/experts.h"

#include <limits>

#include "fulgurite/core/check.h"

namespace fulgurite::experts {
namespace {

bool has_shape(const PreparedMatrix& matrix, int64_t out, int64_t in, const MatrixFormat& format) {
  return matrix.out == out && matrix.in == in && format_of(matrix) == format;
}

bool is_planned(const Mlp& mlp, int64_t hidden, int64_t width, const MatrixFormat& format) {
  return has_shape(mlp.gate, width, hidden, format) && has_shape(mlp.up, width, hidden, format) &&
         has_shape(mlp.down, hidden, width, format);
}

void check_weights(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(static_cast<int64_t>(args.experts.size()) == problem.experts, "{} experts of {}",
                   args.experts.size(), problem.experts);
  for (const Mlp& mlp : args.experts)
    FULGURITE_ASSERT(is_planned(mlp, problem.hidden, problem.width, problem.weight),
                     "experts: expert {} is not the one that was planned", &mlp - args.experts.data());
  FULGURITE_ASSERT((args.shared != nullptr) == (problem.shared_width > 0) &&
                       (args.shared == nullptr || is_planned(*args.shared, problem.hidden,
                                                             problem.shared_width, problem.shared_weight)),
                   "experts: the shared expert is not the one that was planned");
}

linear::Problem linear_problem(const Problem& problem, Part part, int64_t in, int64_t out) {
  const MatrixFormat& format = part == Part::kRouted ? problem.weight : problem.shared_weight;
  return {problem.setting, in, out, format, linear::Output::kActivation, problem.largest_batch};
}

int64_t width_of(const Problem& problem, Part part) {
  return part == Part::kRouted ? problem.width : problem.shared_width;
}

}  // namespace

linear::Problem gate_problem(const Problem& problem, Part part) {
  return linear_problem(problem, part, problem.hidden, width_of(problem, part));
}

linear::Problem down_problem(const Problem& problem, Part part) {
  return linear_problem(problem, part, width_of(problem, part), problem.hidden);
}

float limit_of(const Problem& problem, Part part) {
  const bool clamps = part == Part::kRouted || problem.setting.numerics.shared_clamp == SharedClamp::kOn;
  return clamps && problem.limit ? *problem.limit : std::numeric_limits<float>::infinity();
}

DType activation_type(const Problem& problem) { return fulgurite::activation_type(problem.setting.numerics); }

void check(const Problem& problem, const Args& args) {
  FULGURITE_ASSERT(!problem.limit || *problem.limit > 0.0f, "experts: a limit of {}", *problem.limit);
  const int64_t tokens = args.x.extent[0];
  const int64_t routed_tokens = problem.experts > 0 ? tokens : 0;
  const int64_t per_token = problem.experts > 0 ? problem.experts_per_token : 0;
  const DType type = activation_type(problem);
  const Check check("experts");
  check.tensor("x", args.x, type, {tokens, problem.hidden})
      .range("x, tokens", tokens, 0, problem.largest_batch)
      .tensor("expert_ids", args.expert_ids, {routed_tokens, per_token})
      .tensor("expert_weights", args.expert_weights, {routed_tokens, per_token})
      .tensor("out", args.out, type, {tokens, problem.hidden});
  for (int64_t t = 0; reads_values(problem.setting) && t < routed_tokens; ++t) {
    int64_t previous = -1;
    for (int64_t j = 0; j < per_token; ++j) {
      check.range("expert_ids", args.expert_ids(t, j), previous + 1, problem.experts - 1);
      previous = args.expert_ids(t, j);
    }
  }
  check_weights(problem, args);
}

Args of_tokens(const Problem& problem, const Args& args, int64_t first, int64_t count) {
  Args part = args;
  part.x = args.x.slice(0, first, count);
  part.out = args.out.slice(0, first, count);
  if (problem.experts == 0) return part;
  part.expert_ids = args.expert_ids.slice(0, first, count);
  part.expert_weights = args.expert_weights.slice(0, first, count);
  return part;
}

}  // namespace fulgurite::experts
