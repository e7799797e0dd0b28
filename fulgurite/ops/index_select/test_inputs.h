#pragma once
// What the tests of index_select share: the rows that they run over, inputs of every operand, and the
// choice made once more in another way.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "fulgurite/core/quantize.h"
#include "fulgurite/ops/index_select/index_select.h"
#include "fulgurite/ops/index_select/index_select_audit.h"
#include "fulgurite/ops/index_select/index_select_cases.h"
#include "test/op_test.h"

namespace fulgurite::index_select {

using inputs::Buffer;
using inputs::TensorBuffer;
using inputs::Values;

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

struct Row {
  const Implementation* row;
  const char* numerics;
};
inline constexpr Row kRows[] = {{&kCpu, "fp32"},
                                {&kCpuPairs, "serving"},
                                {&kCpuPairs, "serving,index_quant=none"},
                                {&kCpuPairs, "serving,activation=fp16,index_quant=none"},
                                {&kCpuPairs, "fp32,index_quant=fp4"}};
inline constexpr Row kExact[] = {
    {&kReference, "fp32"}, {&kReference, "serving"}, {&kCpu, "fp32"}, {&kCpuPairs, "serving"}};

inline Numerics numerics_of(const std::string& text) {
  return parse_numerics(text).resolved(ActivationScale::kPow2, IndexQuant::kFp8);
}

inline Problem problem_of(const Case& shape, const std::string& numerics, Isa isa = cpu::best_isa()) {
  return {{{DeviceKind::kCpu, isa}, numerics_of(numerics)},
          shape.heads,
          shape.head_dim,
          shape.topk,
          shape.sequences,
          shape.context,
          shape.tokens};
}

struct Inputs {
  TensorBuffer<3> q, key_cache;
  Buffer<2> weights, scales;
  std::vector<TokenPlace> places;
};

// The first token sees everything, the second one key, the others what chance gives.
inline std::vector<TokenPlace> make_places(Random& random, const Case& shape) {
  std::vector<TokenPlace> places;
  for (int64_t t = 0; t < shape.tokens; ++t) {
    const int64_t position = t == 0 ? shape.context - 1 : t == 1 ? 0 : random.below(shape.context);
    places.push_back({static_cast<int32_t>(t % shape.sequences), static_cast<int32_t>(position)});
  }
  return places;
}

// Rows of `values` as an operand; e4m3: quantized row by row.
inline TensorBuffer<3> operand(DType dtype, const Buffer<3>& values, float* scales) {
  TensorBuffer<3> made = inputs::unwritten<3>(dtype, values.view.extent);
  const auto [rows, columns, width] = values.view.extent;
  for (int64_t a = 0; a < rows; ++a) {
    for (int64_t b = 0; b < columns; ++b) {
      const View<float, 1> from = values.view[a][b];
      const Tensor<1> to = made.view[a][b];
      if (dtype != DType::kF8_E4M3) {
        for (int64_t i = 0; i < width; ++i) store(to, from(i), i);
        continue;
      }
      const float scale =
          quantize_e4m3({from.data, static_cast<size_t>(width)}, ScaleRounding::kPow2, to.as<e4m3>().data);
      if (scales != nullptr) scales[a * columns + b] = scale;
    }
  }
  return made;
}

inline Inputs make_inputs(uint64_t seed, const Case& shape, Values values, const char* numerics,
                          bool whole = false) {
  Random random(seed);
  Buffer<3> q = inputs::make(random, values, shape.tokens, shape.heads, shape.head_dim);
  Buffer<3> keys = inputs::make(random, values, shape.sequences, shape.context, shape.head_dim);
  Inputs in;
  in.weights =
      inputs::make(random, values == Values::kConstant ? values : Values::kNormal, shape.tokens, shape.heads);
  in.scales = inputs::make(random, values, shape.sequences, shape.context);
  for (std::vector<float>* const elements : {&q.elements, &keys.elements, &in.weights.elements})
    for (float& x : *elements) x = whole ? std::round(x) : x;
  const DType dtype = index_operand(numerics_of(numerics));
  in.q = operand(dtype, q, nullptr);
  in.key_cache = operand(dtype, keys, in.scales.view.data);
  in.places = make_places(random, shape);
  return in;
}

struct Result {
  std::vector<int32_t> selected;  // [tokens, topk]
  std::vector<float> scores;      // [tokens, context]
};

enum class Scores { kAsked, kNotAsked };

inline Args args_of(const Problem& problem, const Inputs& in, Result& out, Scores scores) {
  const auto tokens = static_cast<int64_t>(in.places.size());
  out = {std::vector<int32_t>(static_cast<size_t>(tokens * problem.topk), -7),
         std::vector<float>(static_cast<size_t>(tokens * problem.context), 7.0f)};
  Args args{in.q.view,
            in.weights.view,
            {in.key_cache.view, {}},
            {in.places.data(), {tokens}},
            {out.selected.data(), {tokens, problem.topk}},
            {}};
  if (in.q.view.dtype == DType::kF8_E4M3) args.key_cache.scales = in.scales.view;
  if (scores == Scores::kAsked) args.scores = {out.scores.data(), {tokens, problem.context}};
  return args;
}

inline Result result(const Implementation& row, const Problem& problem, const Inputs& in, int threads = 1,
                     Scores scores = Scores::kAsked) {
  Result out;
  test::run(row, problem, args_of(problem, in, out, scores), threads);
  return out;
}

inline audit::OpReport judged(const Implementation& row, const Problem& problem, const Inputs& in,
                              int threads = 1) {
  Result out;
  const Args args = args_of(problem, in, out, Scores::kNotAsked);
  const test::ExactBytes workspace(row.workspace_bytes(problem, threads));
  cpu::ThreadPool workers(threads);
  return judge(row, problem, args, {threads, &workers, workspace.bytes()});
}

// The definition of the choice once more, by comparisons instead of keys.
inline std::vector<int32_t> sorted_choice(const Problem& problem, const Inputs& in,
                                          const std::vector<float>& scores) {
  std::vector<int32_t> selected;
  for (size_t t = 0; t < in.places.size(); ++t) {
    const float* const row = scores.data() + t * static_cast<size_t>(problem.context);
    std::vector<int32_t> order(static_cast<size_t>(visible(problem, in.places[t].position)));
    std::iota(order.begin(), order.end(), 0);
    if (problem.setting.numerics.ties == Ties::kHigher) std::reverse(order.begin(), order.end());
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
      return row[a] > row[b] || (std::isnan(row[b]) && !std::isnan(row[a]));
    });
    order.resize(std::min(order.size(), static_cast<size_t>(problem.topk)));
    std::sort(order.begin(), order.end());
    order.resize(static_cast<size_t>(problem.topk), -1);
    selected.insert(selected.end(), order.begin(), order.end());
  }
  return selected;
}

}  // namespace fulgurite::index_select
