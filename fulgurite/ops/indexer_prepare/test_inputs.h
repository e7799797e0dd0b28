#pragma once
// What the tests of indexer_prepare share: batches, results and their views.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_audit.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::indexer_prepare {

using inputs::Buffer;
using inputs::TensorBuffer;
using inputs::Values;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
const Implementation* const kBoth[] = {&kReference, &kCpu};

inline Numerics numerics_of(const std::string& text) {
  return parse_numerics(text).resolved(ActivationScale::kPow2, IndexQuant::kFp8);
}

inline Problem problem_of(const Case& shape, const std::string& numerics = "fp32",
                          Isa isa = cpu::best_isa()) {
  return {{{DeviceKind::kCpu, isa}, numerics_of(numerics)},
          shape.heads,
          shape.head_dim,
          shape.rope,
          rotary::Layout::kHalfSplit,
          shape.sequences,
          shape.context};
}

inline DType activation(const Problem& problem) { return activation_type(problem.setting.numerics); }

struct Batch {
  TensorBuffer<3> q;
  TensorBuffer<2> k;
  Buffer<2> gate;
  Buffer<1> k_weight, k_bias;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
};

inline Batch make_batch(const Case& shape, Values values, DType dtype = DType::kF32) {
  Random random(1);
  return {inputs::make_tensor(random, values, dtype, {shape.tokens, shape.heads, shape.head_dim}),
          inputs::make_tensor(random, values, dtype, std::array{shape.tokens, shape.head_dim}),
          inputs::make(random, values, shape.tokens, shape.heads),
          inputs::make(random, Values::kNormal, shape.head_dim),
          inputs::make(random, Values::kNormal, shape.head_dim),
          inputs::make_places(random, shape.tokens, shape.sequences, shape.context),
          inputs::make_table(shape.context, shape.rope)};
}

// What the operation writes.
struct Result {
  TensorBuffer<3> q, keys;
  Buffer<3> rotated_q;
  Buffer<2> scales, weights, rotated_k;

  bool operator==(const Result& other) const {  // bit for bit
    return *q.bytes == *other.q.bytes && *keys.bytes == *other.keys.bytes &&
           test::identical(rotated_q.elements, other.rotated_q.elements) &&
           test::identical(scales.elements, other.scales.elements) &&
           test::identical(weights.elements, other.weights.elements) &&
           test::identical(rotated_k.elements, other.rotated_k.elements);
  }
  float key(TokenPlace place, int64_t i) const {
    const Tensor<1> row = keys.view[place.sequence][place.position];
    return row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i);
  }
  float query(int64_t t, int64_t h, int64_t i) const {
    const Tensor<1> row = q.view[t][h];
    return row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i);
  }
};

inline Result make_result(const Problem& problem, int64_t tokens) {
  Random unused(0);
  const DType dtype = index_operand(problem.setting.numerics);
  const auto floats = [&](auto... extent) { return inputs::make(unused, Values::kConstant, extent...); };
  return {inputs::unwritten<3>(dtype, {tokens, problem.heads, problem.head_dim}),
          inputs::unwritten<3>(dtype, {problem.sequences, problem.context, problem.head_dim}),
          floats(tokens, problem.heads, problem.head_dim),
          floats(problem.sequences, problem.context),
          floats(tokens, problem.heads),
          floats(tokens, problem.head_dim)};
}

inline Args args_of(const Batch& batch, const Result& made) {
  return {batch.q.view,
          batch.k.view,
          batch.gate.view,
          batch.k_weight.view,
          batch.k_bias.view,
          inputs::view_of(batch.places),
          batch.table.table(),
          made.weights.view,
          {made.keys.view, made.keys.view.dtype == DType::kF8_E4M3 ? made.scales.view : View<float, 2>{}},
          made.q.view,
          made.rotated_q.view,
          made.rotated_k.view};
}

inline Args slice(Args args, int64_t first, int64_t count) {
  args.q = args.q.slice(0, first, count);
  args.k = args.k.slice(0, first, count);
  args.gate = args.gate.slice(0, first, count);
  args.places = args.places.slice(0, first, count);
  args.weights = args.weights.slice(0, first, count);
  args.q_operand = args.q_operand.slice(0, first, count);
  args.rotated_q = args.rotated_q.slice(0, first, count);
  args.rotated_k = args.rotated_k.slice(0, first, count);
  return args;
}

inline Result result(const Implementation& row, const Problem& problem, const Batch& batch, int threads = 1) {
  const Result made = make_result(problem, batch.q.view.extent[0]);
  test::run(row, problem, args_of(batch, made), threads);
  return made;
}

inline audit::OpReport judged(const Implementation& row, const Problem& problem, const Batch& batch) {
  const Result made = make_result(problem, batch.q.view.extent[0]);
  const test::ExactBytes workspace(row.workspace_bytes(problem, 1));
  return judge(row, problem, args_of(batch, made), {1, nullptr, workspace.bytes()});
}

}  // namespace fulgurite::indexer_prepare
