#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/tensor_core.h"
#include "fulgurite/ops/index_select/index_select.h"

namespace fulgurite::index_select {
namespace {

Support takes_mma(const Numerics& numerics) {
  if (numerics.mma != Mma::kHopper || index_operand(numerics) != DType::kF32) return std::nullopt;
  return on_tensor_cores(Refusal{"operands of f32, takes bf16 or e4m3"});
}

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mma, {Mma::kExact, Mma::kHopper}), takes_mma(numerics),
                        takes_order(problem.head_order, 1)});
}

// max(0, x); a NaN stays.
float relu(float x) { return x < 0.0f ? 0.0f : x; }

using Vector = std::vector<float>;

Vector values_of(const ConstTensor<1>& row) {
  Vector x;
  for (int64_t i = 0; i < row.extent[0]; ++i)
    x.push_back(row.dtype == DType::kF8_E4M3 ? to_float(row.as<e4m3>()(i)) : load(row, i));
  return x;
}

float dot(const Vector& a, const Vector& b) {
  double sum = 0.0;
  for (size_t d = 0; d < a.size(); ++d) sum += static_cast<double>(a[d]) * static_cast<double>(b[d]);
  return static_cast<float>(sum);
}

// mma = hopper: a row as the tensor cores take it.
struct MmaVector {
  MmaType type;
  std::vector<MmaFactor> factors;
};

MmaVector mma_vector(const ConstTensor<1>& row) {
  const MmaType type = row.dtype == DType::kF8_E4M3 ? MmaType::kE4m3 : MmaType::kBf16;
  const Vector values = values_of(row);
  return {type, mma_factors(type, row.extent[0], [&](int64_t i) { return values[static_cast<size_t>(i)]; })};
}

float dot(const MmaVector& a, const MmaVector& b) { return mma_sum(a.type, a.factors, b.factors); }

template <class Vector>
float head_sum(const SumOrder& order, const std::vector<Vector>& heads, View<const float, 1> weights,
               const Vector& key) {
  const auto count = static_cast<int64_t>(heads.size());
  std::vector<float> sums(static_cast<size_t>(order.parts), 0.0f);
  for (int64_t h = 0; h < count; ++h) {
    float& sum = sums[static_cast<size_t>(order.part_of(h, count, 1))];
    sum = std::fma(weights(h), relu(dot(heads[static_cast<size_t>(h)], key)), sum);
  }
  return order.merged(sums);
}

// L[t, :] of the visible keys; `row` reads a row of q or of the cache.
template <class Row>
Vector index_logits(const Problem& problem, const Args& args, int64_t t, const Row& row) {
  const TokenPlace place = args.places(t);
  const auto key = [&](int64_t s) { return row(args.key_cache.key(place.sequence, s)); };
  std::vector<decltype(row(args.q[0][0]))> heads;
  for (int64_t h = 0; h < args.q.extent[1]; ++h) heads.push_back(row(args.q[t][h]));
  Vector logits;
  for (int64_t s = 0; s < visible(problem, place.position); ++s) {
    const float sum = head_sum(problem.head_order, heads, args.weights[t], key(s));
    const bool scaled = args.key_cache.keys.dtype == DType::kF8_E4M3;
    logits.push_back(scaled ? args.key_cache.scale(place.sequence, s) * sum : sum);
  }
  return logits;
}

void select(std::vector<uint64_t> keys, Ties ties, View<int32_t, 1> selected) {
  std::sort(keys.begin(), keys.end(), std::greater<>());
  std::vector<int32_t> chosen;
  for (const uint64_t key : keys)
    if (static_cast<int64_t>(chosen.size()) < selected.extent[0]) chosen.push_back(position_of(key, ties));
  std::sort(chosen.begin(), chosen.end());
  chosen.resize(static_cast<size_t>(selected.extent[0]), -1);
  for (int64_t j = 0; j < selected.extent[0]; ++j) selected(j) = chosen[static_cast<size_t>(j)];
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const Ties ties = problem.setting.numerics.ties;
  const bool hopper = problem.setting.numerics.mma == Mma::kHopper;
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    const Vector logits =
        hopper ? index_logits(problem, args, t, mma_vector) : index_logits(problem, args, t, values_of);
    std::vector<uint64_t> keys;
    for (size_t s = 0; s < logits.size(); ++s)
      keys.push_back(rank_key(logits[s], static_cast<int32_t>(s), ties));
    select(keys, ties, args.selected[t]);
    for (int64_t j = 0; args.slots && j < problem.topk; ++j)
      args.slots(t, j) = slot_of(args.key_cache.pages, args.places(t).sequence, args.selected(t, j));
    if (!args.scores) continue;
    for (size_t s = 0; s < static_cast<size_t>(problem.context); ++s)
      args.scores(t, s) = s < logits.size() ? logits[s] : -std::numeric_limits<float>::infinity();
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::index_select
