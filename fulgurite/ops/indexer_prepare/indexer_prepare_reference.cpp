#include <cmath>

#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal({takes(numerics.activation, {Activation::kFp32}), takes_rsqrt(numerics.rsqrt),
                        takes(numerics.index_quant, {IndexQuant::kNone}),
                        takes(numerics.index_norm, {IndexNorm::kFp32})});
}

// fp32(n^-1/2)
float inverse_root(int64_t n) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))); }

void layer_norm(const Problem& problem, const Args& args, View<const float, 1> x, View<float, 1> y) {
  const int64_t n = problem.head_dim;
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += x(i);
  const float mean = static_cast<float>(sum / static_cast<double>(n));

  double squares = 0.0;
  for (int64_t i = 0; i < n; ++i) {
    const float d = x(i) - mean;
    squares += static_cast<double>(d) * d;
  }
  const float variance = static_cast<float>(squares / static_cast<double>(n));

  const Numerics& numerics = problem.setting.numerics;
  const float r = reciprocal_sqrt(variance + numerics.index_norm_eps, numerics.rsqrt);
  for (int64_t i = 0; i < n; ++i) {
    const float d = x(i) - mean;
    y(i) = (d * r) * args.k_weight(i) + args.k_bias(i);
  }
}

void rotate(const Problem& problem, const Args& args, int64_t t, View<float, 1> x) {
  const int64_t p = args.places(t).position;
  rotary::rotate(layout_in_force(problem), args.table.cosine[p].data, args.table.sine[p].data, problem.rope,
                 x.data);
}

void hadamard(View<float, 1> x) {
  const int64_t n = x.extent[0];
  for (int64_t stride = 1; stride < n; stride *= 2) {
    for (int64_t i = 0; i < n; ++i) {
      if ((i & stride) != 0) continue;
      const float a = x(i), b = x(i + stride);
      x(i) = a + b;
      x(i + stride) = a - b;
    }
  }
  for (int64_t i = 0; i < n; ++i) x(i) = x(i) * inverse_root(n);
}

void copy(View<const float, 1> from, View<float, 1> to) {
  for (int64_t i = 0; i < from.extent[0]; ++i) to(i) = from(i);
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const Hadamard knob = problem.setting.numerics.hadamard;
  const View<float, 3> q = args.q.as<float>();
  const View<const float, 2> k = args.k.as<float>();
  for (int64_t t = 0; t < q.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      rotate(problem, args, t, q[t][h]);
      if (args.rotated_q) copy(q[t][h], args.rotated_q[t][h]);
      if (knob != Hadamard::kNone) hadamard(q[t][h]);
      args.weights(t, h) = (args.gate(t, h) * inverse_root(problem.heads)) * inverse_root(problem.head_dim);
    }
    const TokenPlace place = args.places(t);
    const View<float, 1> key = args.key_cache.as<float>()[place.sequence][place.position];
    layer_norm(problem, args, k[t], key);
    rotate(problem, args, t, key);
    if (args.rotated_k) copy(key, args.rotated_k[t]);
    if (knob == Hadamard::kBoth) hadamard(key);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::indexer_prepare
