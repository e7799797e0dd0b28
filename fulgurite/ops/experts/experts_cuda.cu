#include <cmath>

#include "fulgurite/cuda/linear_sum.h"
#include "fulgurite/ops/experts/experts.h"

namespace fulgurite::experts {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// One part of the operation: rows of a token's experts (`slots` a token; the shared one: 1), each through
// gate and up into `hidden`, and through down into `y`.
struct Rows {
  Problem problem;
  Part part;
  Args args;
  int64_t slots, width;
  linear::Problem into, back;
  DType type;
  cuda::CodedRows coded_x, coded_hidden;  // of fp8 linears
  Tensor<2> hidden;                       // activation [tokens * slots, width]
  Tensor<2> y;                            // activation [tokens * slots, hidden]

  // The expert of a row.
  FULGURITE_HOST_DEVICE int64_t expert(int64_t row) const {
    return part == Part::kShared ? 0 : args.expert_ids(row / slots, row % slots);
  }
  FULGURITE_HOST_DEVICE float weight(int64_t row) const {
    return part == Part::kShared ? 1.0f : args.expert_weights(row / slots, row % slots);
  }
};

Tensor<2> activations(DType type, int64_t rows, int64_t width, cuda::Scratch& scratch) {
  Tensor<2> tensor = View<float, 2>(scratch.take<float>(rows * width), {rows, width});  // enough for any type
  tensor.dtype = type;
  return tensor;
}

Rows rows_of(const Problem& problem, Part part, const Args& args, int64_t tokens, cuda::Scratch& scratch) {
  Rows rows{problem,
            part,
            args,
            part == Part::kShared ? 1 : problem.experts_per_token,
            part == Part::kShared ? problem.shared_width : problem.width,
            gate_problem(problem, part),
            down_problem(problem, part),
            activation_type(problem),
            {},
            {},
            {},
            {}};
  if (rows.width == 0) return rows;
  const int64_t count = tokens * rows.slots;
  if (linear::quantizes(rows.into)) rows.coded_x = cuda::coded_rows(scratch, tokens, problem.hidden);
  if (linear::quantizes(rows.back)) rows.coded_hidden = cuda::coded_rows(scratch, count, rows.width);
  rows.hidden = activations(rows.type, count, rows.width, scratch);
  rows.y = activations(rows.type, count, problem.hidden, scratch);
  return rows;
}

int64_t workspace_bytes(const Problem& problem, int) {
  cuda::Scratch scratch;
  for (const Part part : {Part::kRouted, Part::kShared})
    if (part == Part::kShared || problem.experts > 0)
      rows_of(problem, part, {}, problem.largest_batch, scratch);
  return scratch.used();
}

// How one linear of a part reads its operands.
struct Operands {
  bool codes;
  int64_t group;
  WeightReading reading;

  FULGURITE_HOST_DEVICE float sum(const ConstTensor<2>& x, const cuda::CodedRows& coded, int64_t row,
                                  const cuda::Matrix& weight, int64_t n) const {
    return codes ? cuda::sum_of_codes(coded, row, weight, n, group)
                 : cuda::sum_of_products(x, row, weight, n, reading);
  }
};

Operands operands_of(const linear::Problem& problem) {
  return {linear::quantizes(problem), linear::group_columns(problem.weight), linear::reading_of(problem)};
}

// Index: a row and a column of `hidden`; rows of other experts are left alone.
struct GateAndUp {
  Rows rows;
  int64_t expert;
  Operands with;
  cuda::Matrix gate, up;
  float limit;

  FULGURITE_HOST_DEVICE float product(int64_t row, const cuda::Matrix& weight, int64_t n) const {
    return round_to(rows.type, with.sum(rows.args.x, rows.coded_x, row / rows.slots, weight, n));
  }
  FULGURITE_HOST_DEVICE static float silu(float g) {
    return g / (1.0f + static_cast<float>(std::exp(-static_cast<double>(g))));
  }
  FULGURITE_HOST_DEVICE static float at_most(float g, float limit) { return g > limit ? limit : g; }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / rows.width, n = index % rows.width;
    if (rows.expert(row) != expert) return;
    const float g = at_most(product(row, gate, n), limit), u = product(row, up, n);
    const float clamped = u < -limit ? -limit : at_most(u, limit);
    const float before = rows.problem.weight_before_down ? rows.weight(row) : 1.0f;
    store(rows.hidden, (silu(g) * clamped) * before, row, n);
  }
};

// Index: a row and a column of `y`.
struct Down {
  Rows rows;
  int64_t expert;
  Operands with;
  cuda::Matrix down;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t row = index / rows.problem.hidden, n = index % rows.problem.hidden;
    if (rows.expert(row) == expert)
      store(rows.y, with.sum(rows.hidden, rows.coded_hidden, row, down, n), row, n);
  }
};

// Index: an element of out.
struct Combine {
  Rows routed, shared;
  bool has_routed, has_shared;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t hidden = routed.problem.hidden, t = index / hidden, i = index % hidden;
    float y = 0.0f;
    for (int64_t j = 0; has_routed && j < routed.slots; ++j) {
      const int64_t row = t * routed.slots + j;
      const float after = routed.problem.weight_before_down ? 1.0f : routed.weight(row);
      y = std::fma(after, load(routed.y, row, i), y);
    }
    if (has_shared) y += load(shared.y, t, i);
    store(routed.args.out, y, t, i);
  }
};

void apply(const Lane& lane, const Rows& rows, std::span<const Mlp> mlps) {
  const ScaleRounding rounding = activation_rounding(rows.problem.setting.numerics);
  const Operands into = operands_of(rows.into), back = operands_of(rows.back);
  const float limit = limit_of(rows.problem, rows.part);
  const int64_t count = rows.hidden.extent[0];
  if (into.codes)
    cuda::for_each(lane, rows.coded_x.rows * rows.coded_x.groups(),
                   cuda::QuantizeGroups{rows.args.x, rounding, rows.coded_x});
  for (size_t e = 0; e < mlps.size(); ++e)
    cuda::for_each(lane, count * rows.width,
                   GateAndUp{rows, static_cast<int64_t>(e), into, cuda::Matrix(mlps[e].gate),
                             cuda::Matrix(mlps[e].up), limit});
  if (back.codes)
    cuda::for_each(lane, count * rows.coded_hidden.groups(),
                   cuda::QuantizeGroups{rows.hidden, rounding, rows.coded_hidden});
  for (size_t e = 0; e < mlps.size(); ++e)
    cuda::for_each(lane, count * rows.problem.hidden,
                   Down{rows, static_cast<int64_t>(e), back, cuda::Matrix(mlps[e].down)});
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.x.extent[0];
  cuda::Scratch scratch(lane);
  const bool has_routed = problem.experts > 0, has_shared = problem.shared_width > 0;
  Rows routed{problem, Part::kRouted, args, 0, 0, {}, {}, activation_type(problem), {}, {}, {}, {}}, shared{};
  if (has_routed) apply(lane, routed = rows_of(problem, Part::kRouted, args, tokens, scratch), args.experts);
  if (has_shared)
    apply(lane, shared = rows_of(problem, Part::kShared, args, tokens, scratch), {args.shared, 1});
  cuda::for_each(lane, tokens * problem.hidden, Combine{routed, shared, has_routed, has_shared});
}

}  // namespace

const Implementation kCuda{"cuda", supports, workspace_bytes, run, DeviceKind::kCuda};

}  // namespace fulgurite::experts
