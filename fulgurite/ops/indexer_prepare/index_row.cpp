#include "fulgurite/ops/indexer_prepare/index_row.h"

#include <vector>

#include "fulgurite/core/check.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/core/quantize.h"

namespace fulgurite::indexer_prepare {
namespace {

using Vector = std::vector<float>;

Vector values_of(const ConstTensor<1>& row) {
  Vector x;
  for (int64_t i = 0; i < row.extent[0]; ++i) x.push_back(load(row, i));
  return x;
}

void store_with_scale(const Numerics& numerics, std::span<const float> x, int64_t sequence, int64_t row,
                      const IndexKeys& cache) {
  const float scale = store_operand(numerics, x, cache.key(sequence, row));
  if (numerics.index_quant == IndexQuant::kFp8) cache.scale(sequence, row) = scale;
}

}  // namespace

void hadamard(const Numerics& numerics, std::span<float> x) {
  fulgurite::hadamard(x);
  for (float& value : x) value = round_to(activation_type(numerics), value);
}

float store_operand(const Numerics& numerics, std::span<const float> x, const Tensor<1>& row) {
  if (numerics.index_quant == IndexQuant::kFp8)
    return quantize_e4m3(x, index_rounding(numerics), row.as<e4m3>().data);
  Vector values(x.begin(), x.end());
  if (numerics.index_quant == IndexQuant::kFp4) round_to_fp4(values);
  for (size_t i = 0; i < values.size(); ++i) store(row, values[i], i);
  return 1.0f;
}

float store_rotated_query(const Problem& problem, const ConstTensor<1>& rotated, const Tensor<1>& operand) {
  const Numerics& numerics = problem.setting.numerics;
  Vector q = values_of(rotated);
  if (numerics.hadamard != Hadamard::kNone) hadamard(numerics, q);
  return store_operand(numerics, q, operand);
}

void store_rotated_key(const Problem& problem, const ConstTensor<1>& rotated, TokenPlace place,
                       const IndexKeys& cache) {
  const Numerics& numerics = problem.setting.numerics;
  Vector k = values_of(rotated);
  if (numerics.hadamard == Hadamard::kBoth) hadamard(numerics, k);
  store_with_scale(numerics, k, place.sequence, place.position, cache);
}

void store_key(const Numerics& numerics, const ConstTensor<1>& key, int64_t sequence, int64_t row,
               const IndexKeys& cache) {
  store_with_scale(numerics, values_of(key), sequence, row, cache);
}

float head_weight(const Problem& problem, float gate, float q_scale) {
  const bool narrow = !problem.keys && problem.setting.numerics.gate == Gate::kBf16;
  float weight = (narrow ? round_to_bf16(gate) : gate) * inverse_root(problem.heads);
  if (problem.setting.numerics.index_quant == IndexQuant::kFp8) weight = weight * q_scale;
  return weight * inverse_root(problem.head_dim);
}

}  // namespace fulgurite::indexer_prepare
