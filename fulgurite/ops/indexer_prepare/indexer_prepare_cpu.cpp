// A unit of work is one query head or one key, so that a single token occupies every thread. A key is made in
// its place in the cache.

#include <algorithm>
#include <cmath>

#include "fulgurite/core/rounding.h"
#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare.h"

namespace fulgurite::indexer_prepare {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

float inverse_root(int64_t n) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(n))); }

// The mean of n terms: a double sum, ascending, as the contract has it.
template <class Term>
float mean_of(int64_t n, const Term& term) {
  double sum = 0.0;
  for (int64_t i = 0; i < n; ++i) sum += term(i);
  return static_cast<float>(sum / static_cast<double>(n));
}

void layer_norm(const Problem& problem, const Args& args, const float* x, float* y) {
  const int64_t n = problem.head_dim;
  const Numerics& numerics = problem.setting.numerics;
  const float mean = mean_of(n, [&](int64_t i) { return static_cast<double>(x[i]); });
  for (int64_t i = 0; i < n; ++i) y[i] = x[i] - mean;
  const float variance = mean_of(n, [&](int64_t i) { return static_cast<double>(y[i]) * y[i]; });
  const float r = reciprocal_sqrt(variance + numerics.index_norm_eps, numerics.rsqrt);
  for (int64_t i = 0; i < n; ++i) y[i] = (y[i] * r) * args.k_weight.data[i] + args.k_bias.data[i];
}

void hadamard(int64_t n, float* x) {
  for (int64_t stride = 1; stride < n; stride *= 2) {
    for (float* block = x; block < x + n; block += 2 * stride) {
      for (int64_t i = 0; i < stride; ++i) {
        const float a = block[i], b = block[i + stride];
        block[i] = a + b;
        block[i + stride] = a - b;
      }
    }
  }
  const float scale = inverse_root(n);
  for (int64_t i = 0; i < n; ++i) x[i] = x[i] * scale;
}

void rotate(const Problem& problem, const Args& args, int64_t position, float* x) {
  rotary::rotate(layout_in_force(problem), args.table.cosine[position].data, args.table.sine[position].data,
                 problem.rope, x);
}

void prepare_query(const Problem& problem, const Args& args, int64_t t, int64_t h) {
  float* const q = args.q.as<float>()[t][h].data;
  rotate(problem, args, args.places(t).position, q);
  if (args.rotated_q) std::copy_n(q, problem.head_dim, args.rotated_q[t][h].data);
  if (problem.setting.numerics.hadamard != Hadamard::kNone) hadamard(problem.head_dim, q);
  args.weights(t, h) = (args.gate(t, h) * inverse_root(problem.heads)) * inverse_root(problem.head_dim);
}

void prepare_key(const Problem& problem, const Args& args, int64_t t) {
  const TokenPlace place = args.places(t);
  float* const key = args.key_cache.as<float>()[place.sequence][place.position].data;
  layer_norm(problem, args, args.k.as<float>()[t].data, key);
  rotate(problem, args, place.position, key);
  if (args.rotated_k) std::copy_n(key, problem.head_dim, args.rotated_k[t].data);
  if (problem.setting.numerics.hadamard == Hadamard::kBoth) hadamard(problem.head_dim, key);
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t units = problem.heads + 1;
  cpu::parallel_for(lane, args.q.extent[0] * units, [&](int64_t begin, int64_t end, int) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t t = unit / units, h = unit % units;
      if (h < problem.heads)
        prepare_query(problem, args, t, h);
      else
        prepare_key(problem, args, t);
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::indexer_prepare
