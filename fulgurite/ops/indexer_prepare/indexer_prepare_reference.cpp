#include <vector>

#include "fulgurite/core/check.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

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

void transform(const Problem& problem, Vector& x) {
  hadamard(x);
  round_all(problem, x);
}

void copy(const Vector& from, View<float, 1> to) {
  for (size_t i = 0; i < from.size(); ++i) to(i) = from[i];
}

// Quantizes x as index_quant says and writes it; returns the scale of codes, otherwise 1.
float write_operand(const Problem& problem, Vector x, const Tensor<1>& row) {
  const Numerics& numerics = problem.setting.numerics;
  if (numerics.index_quant == IndexQuant::kFp8) {
    const bool pow2 = numerics.index_scale == IndexScale::kPow2;
    return quantize_e4m3(x, pow2 ? ScaleRounding::kPow2 : ScaleRounding::kNone, row.as<e4m3>().data);
  }
  if (numerics.index_quant == IndexQuant::kFp4) round_to_fp4(x);
  for (size_t i = 0; i < x.size(); ++i) store(row, x[i], i);
  return 1.0f;
}

void prepare_query(const Problem& problem, const Args& args, int64_t t, int64_t h) {
  const Numerics& numerics = problem.setting.numerics;
  Vector q = values_of(args.q[t][h]);
  rotate(problem, args, t, q);
  if (args.rotated_q) copy(q, args.rotated_q[t][h]);
  if (numerics.hadamard != Hadamard::kNone) transform(problem, q);
  const float q_scale = write_operand(problem, q, args.q_operand[t][h]);
  float weight = args.gate(t, h) * inverse_root(problem.heads);
  if (numerics.index_quant == IndexQuant::kFp8) weight = weight * q_scale;
  args.weights(t, h) = weight * inverse_root(problem.head_dim);
}

void prepare_key(const Problem& problem, const Args& args, int64_t t) {
  const Numerics& numerics = problem.setting.numerics;
  const TokenPlace place = args.places(t);
  Vector k = values_of(args.k[t]);
  layer_norm(problem, args, k);
  rotate(problem, args, t, k);
  if (args.rotated_k) copy(k, args.rotated_k[t]);
  if (numerics.hadamard == Hadamard::kBoth) transform(problem, k);
  const float scale = write_operand(problem, k, args.key_cache.keys[place.sequence][place.position]);
  if (numerics.index_quant == IndexQuant::kFp8) args.key_cache.scales(place.sequence, place.position) = scale;
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
