#include <vector>

#include "fulgurite/core/check.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/indexer_prepare/index_row.h"

namespace fulgurite::indexer_prepare {
namespace {

using Vector = std::vector<float>;

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  Support scale;  // fp4 knows powers of two alone
  if (numerics.index_quant == IndexQuant::kFp4) scale = takes(numerics.index_scale, {IndexScale::kPow2});
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes_rsqrt(problem.setting), scale});
}

Vector values_of(const ConstTensor<1>& row) {
  Vector x;
  for (int64_t i = 0; i < row.extent[0]; ++i) x.push_back(load(row, i));
  return x;
}

ConstTensor<1> as_row(const Vector& x) {
  return View<const float, 1>(x.data(), {static_cast<int64_t>(x.size())});
}

// The rounding to the activation's type that ends a step.
void round_all(const Problem& problem, Vector& x) {
  for (float& value : x) value = round_to(activation_type(problem.setting.numerics), value);
}

float mean_of(const Vector& x) {
  double sum = 0.0;
  for (const float value : x) sum += value;
  return static_cast<float>(sum / static_cast<double>(x.size()));
}

float mean_square_of(const Vector& x) {
  double sum = 0.0;
  for (const float value : x) sum += static_cast<double>(value) * value;
  return static_cast<float>(sum / static_cast<double>(x.size()));
}

// A parameter of the norm.
float parameter(const Problem& problem, float stored) {
  return problem.setting.numerics.index_norm == IndexNorm::kBf16 ? round_to_bf16(stored) : stored;
}

void layer_norm(const Problem& problem, const Args& args, Vector& x) {
  const Numerics& numerics = problem.setting.numerics;
  const float mean = mean_of(x);
  for (float& value : x) value = value - mean;
  const float r = reciprocal_sqrt(mean_square_of(x) + numerics.index_norm_eps, numerics);
  for (size_t i = 0; i < x.size(); ++i) {
    const float weight = parameter(problem, args.k_weight(i)), bias = parameter(problem, args.k_bias(i));
    x[i] = (x[i] * r) * weight + bias;
  }
  round_all(problem, x);
}

void rotate(const Problem& problem, const Args& args, int64_t t, Vector& x) {
  const int64_t p = args.places(t).position;
  rotary::rotate(layout_in_force(problem), args.table.cosine[p].data, args.table.sine[p].data, problem.rope,
                 x.data() + problem.rope_first);
  round_all(problem, x);
}

void copy(const Vector& from, View<float, 1> to) {
  for (size_t i = 0; i < from.size(); ++i) to(i) = from[i];
}

void prepare_query(const Problem& problem, const Args& args, int64_t t, int64_t h) {
  Vector q = values_of(args.q[t][h]);
  rotate(problem, args, t, q);
  if (args.rotated_q) copy(q, args.rotated_q[t][h]);
  const float q_scale = store_rotated_query(problem, as_row(q), args.q_operand[t][h]);
  args.weights(t, h) = head_weight(problem, args.gate(t, h), q_scale);
}

void prepare_key(const Problem& problem, const Args& args, int64_t t) {
  Vector k = values_of(args.k[t]);
  layer_norm(problem, args, k);
  rotate(problem, args, t, k);
  if (args.rotated_k) copy(k, args.rotated_k[t]);
  store_rotated_key(problem, as_row(k), args.places(t), args.key_cache);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) prepare_query(problem, args, t, h);
    if (problem.keys) prepare_key(problem, args, t);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::indexer_prepare
