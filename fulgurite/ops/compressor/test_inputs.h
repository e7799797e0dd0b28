#pragma once
// What the tests of compressor share: the rows that they run over, batches, results.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "fulgurite/ops/compressor/compressor.h"
#include "fulgurite/ops/compressor/compressor_audit.h"
#include "fulgurite/ops/compressor/compressor_cases.h"
#include "test/op_test.h"
#include "test/rotary_inputs.h"

namespace fulgurite::compressor {

using inputs::Buffer;
using inputs::TensorBuffer;
using inputs::Values;

inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
inline constexpr MatrixFormat kF32Matrix{MatrixForm::kF32, {}, ScaleFormat::kF32};
inline constexpr MatrixFormat kBf16Matrix{MatrixForm::kBF16, {}, ScaleFormat::kF32};

struct Row {
  const Implementation* row;
  const char* numerics;
  MatrixFormat weights;
};
inline const Row kRows[] = {
    {&kCpu, "fp32", kF32Matrix},
    {&kCpu, "serving", kF32Matrix},
    {&kCpu, "serving,activation=fp16,latent_cache=bf16", kBf16Matrix},
    {&kCpu, "fp32,kv_quant=e4m3,index_quant=fp4,hadamard=both", kBf16Matrix},
    {&kCpuBf16, "serving,index_quant=fp4", kBf16Matrix},
    {&kCpuBf16, "serving,latent_cache=bf16,kv_quant=none,index_scale=fp32", kBf16Matrix},
    {&kCpuBf16, "serving,latent_cache=fp32,index_quant=none,hadamard=q", kBf16Matrix},
};
inline const Row kBothFp32[] = {{&kReference, "fp32", kF32Matrix}, {&kCpu, "fp32", kF32Matrix}};

inline int64_t entries_of(const Case& shape) { return (shape.first + shape.tokens) / shape.ratio + 1; }

inline Problem problem_of(const Case& shape, const Row& row, Isa isa = cpu::best_isa()) {
  return {{{DeviceKind::kCpu, isa},
           parse_numerics(row.numerics).resolved(ActivationScale::kPow2, IndexQuant::kFp8)},
          shape.hidden,
          shape.ratio,
          shape.dim,
          shape.rope,
          1e-6f,
          shape.kind,
          row.weights,
          row.weights,
          shape.sequences,
          entries_of(shape),
          shape.tokens};
}

struct Batch {
  TensorBuffer<2> x;
  inputs::Weight wkv, wgate;
  Buffer<2> ape;
  Buffer<1> norm;
  std::vector<TokenPlace> places;
  inputs::RotaryTable table;
  std::vector<float> state;  // before the call
};

// Sequence after sequence, each from position `first` on.
inline std::vector<TokenPlace> places_of(const Case& shape) {
  std::vector<TokenPlace> places;
  for (int64_t s = 0; s < shape.sequences; ++s)
    for (int64_t t = shape.tokens * s / shape.sequences; t < shape.tokens * (s + 1) / shape.sequences; ++t)
      places.push_back({static_cast<int32_t>(s),
                        static_cast<int32_t>(shape.first + t - shape.tokens * s / shape.sequences)});
  return places;
}

inline Batch make_batch(const Case& shape, const Row& row, Values values) {
  const Problem problem = problem_of(shape, row);
  Random random(1);
  Batch batch{inputs::make_tensor(random, values, activation_type(problem.setting.numerics),
                                  std::array{shape.tokens, shape.hidden}),
              inputs::make_weight(random, width(problem), shape.hidden, row.weights),
              inputs::make_weight(random, width(problem), shape.hidden, row.weights),
              inputs::make(random, Values::kNormal, shape.ratio, width(problem)),
              inputs::make(random, Values::kNormal, shape.dim),
              places_of(shape),
              inputs::make_table(shape.first + shape.tokens + 1, shape.rope),
              {}};
  for (int64_t i = 0; i < shape.sequences * state_rows(problem) * 2 * width(problem); ++i)
    batch.state.push_back(static_cast<float>(random.normal()));
  return batch;
}

// What the operation writes.
struct Result {
  std::vector<float> state;
  TensorBuffer<3> entries, keys;
  Buffer<2> scales;
  Buffer<3> projected;
  Buffer<2> pooled;

  bool same_cache(const Result& other) const {  // bit for bit
    return test::identical(state, other.state) && *entries.bytes == *other.entries.bytes &&
           *keys.bytes == *other.keys.bytes && test::identical(scales.elements, other.scales.elements);
  }
  bool operator==(const Result& other) const {
    return same_cache(other) && test::identical(projected.elements, other.projected.elements) &&
           test::identical(pooled.elements, other.pooled.elements);
  }
};

inline Result make_result(const Problem& problem, const Batch& batch) {
  Random unused(0);
  const auto tokens = static_cast<int64_t>(batch.places.size());
  return {batch.state,
          inputs::unwritten<3>(
              DType::kU8, {problem.sequences, KvRow::blocks(problem.entries), row_of(problem).block_bytes()}),
          inputs::unwritten<3>(index_operand(problem.setting.numerics),
                               {problem.sequences, problem.entries, problem.dim}),
          inputs::make(unused, Values::kConstant, problem.sequences, problem.entries),
          inputs::make(unused, Values::kConstant, tokens, 2, width(problem)),
          inputs::make(unused, Values::kConstant, tokens, problem.dim)};
}

inline Args args_of(const Problem& problem, const Batch& batch, Result& made) {
  Args args;
  args.x = batch.x.view;
  args.wkv = &batch.wkv.matrix;
  args.wgate = &batch.wgate.matrix;
  args.ape = batch.ape.view;
  args.norm = batch.norm.view;
  args.places = inputs::view_of(batch.places);
  args.table = batch.table.table();
  args.state = {made.state.data(), {problem.sequences, state_rows(problem), 2, width(problem)}};
  if (problem.kind == Kind::kEntries)
    args.entries = {row_of(problem), {made.entries.view.data, made.entries.view.extent}};
  else
    args.keys = {made.keys.view,
                 made.keys.view.dtype == DType::kF8_E4M3 ? made.scales.view : View<float, 2>{}};
  args.projected = made.projected.view;
  args.pooled = made.pooled.view;
  return args;
}

inline Args slice(Args args, int64_t first, int64_t count) {
  args.x = args.x.slice(0, first, count);
  args.places = args.places.slice(0, first, count);
  if (args.projected) args.projected = args.projected.slice(0, first, count);
  if (args.pooled) args.pooled = args.pooled.slice(0, first, count);
  return args;
}

inline Result result(const Implementation& row, const Problem& problem, const Batch& batch, int threads = 1) {
  Result made = make_result(problem, batch);
  test::run(row, problem, args_of(problem, batch, made), threads);
  return made;
}

inline audit::OpReport judged(const Implementation& row, const Problem& problem, const Batch& batch,
                              int threads = 1) {
  Result made = make_result(problem, batch);
  Args args = args_of(problem, batch, made);
  args.projected = {};
  args.pooled = {};
  const test::ExactBytes workspace(row.workspace_bytes(problem, threads));
  cpu::ThreadPool workers(threads);
  return judge(row, problem, args, {threads, &workers, workspace.bytes()});
}

}  // namespace fulgurite::compressor
