#include "fulgurite/core/check.h"
#include "fulgurite/core/element.h"
#include "fulgurite/core/hadamard.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/rows.h"
#include "fulgurite/ops/indexer_prepare/indexer_prepare_rules.h"

namespace fulgurite::indexer_prepare {
namespace {

constexpr int64_t kWidest = 256;  // head_dim, which a thread holds

Support supports(const Problem& problem) {
  if (problem.head_dim > kWidest)
    return Refusal{fmt::format("head_dim = {}, takes at most {}", problem.head_dim, kWidest)};
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

// The steps that queries and keys share, on one vector of head_dim values.
struct Steps {
  Problem problem;
  Args args;
  rotary::Layout layout;
  DType type;  // of activations
  ScaleRounding rounding;

  FULGURITE_HOST_DEVICE cuda::Row row(float* x) const { return {x, problem.head_dim, type}; }

  FULGURITE_HOST_DEVICE void rotate(int64_t t, float* x) const {
    const int64_t p = args.places(t).position;
    rotary::rotate(layout, args.table.cosine[p].data, args.table.sine[p].data, problem.rope,
                   x + problem.rope_first);
    row(x).round();
  }

  // Quantizes x as index_quant says and writes it; returns the scale of codes, otherwise 1.
  FULGURITE_HOST_DEVICE float write_operand(float* x, const Tensor<1>& row) const {
    const Numerics& n = problem.setting.numerics;
    const std::span<float> values(x, static_cast<size_t>(problem.head_dim));
    if (n.index_quant == IndexQuant::kFp8) return quantize_e4m3(values, rounding, row.as<e4m3>().data);
    if (n.index_quant == IndexQuant::kFp4) round_to_fp4(values);
    for (int64_t i = 0; i < problem.head_dim; ++i) store(row, x[i], i);
    return 1.0f;
  }
};

// Index: a head of a token.
struct PrepareQuery {
  Steps s;

  FULGURITE_HOST_DEVICE void rotated(int64_t t, int64_t h, float* q) const {
    for (int64_t i = 0; i < s.problem.head_dim; ++i) q[i] = load(s.args.q, t, h, i);
    s.rotate(t, q);
    for (int64_t i = 0; s.args.rotated_q && i < s.problem.head_dim; ++i) s.args.rotated_q(t, h, i) = q[i];
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const Problem& problem = s.problem;
    const Args& args = s.args;
    const Numerics& n = problem.setting.numerics;
    const int64_t t = index / problem.heads, h = index % problem.heads;
    float q[kWidest];
    rotated(t, h, q);
    if (n.hadamard != Hadamard::kNone) s.row(q).hadamard();
    const float q_scale = s.write_operand(q, args.q_operand[t][h]);
    const bool narrow = !problem.keys && n.gate == Gate::kBf16;
    const float gate = narrow ? round_to_bf16(args.gate(t, h)) : args.gate(t, h);
    float weight = gate * inverse_root(problem.heads);
    if (n.index_quant == IndexQuant::kFp8) weight = weight * q_scale;
    args.weights(t, h) = weight * inverse_root(problem.head_dim);
  }
};

// Index: a token.
struct PrepareKey {
  Steps s;

  FULGURITE_HOST_DEVICE float parameter(float stored) const {
    return s.problem.setting.numerics.index_norm == IndexNorm::kBf16 ? round_to_bf16(stored) : stored;
  }

  FULGURITE_HOST_DEVICE void layer_norm(float* x) const {
    const int64_t width = s.problem.head_dim;
    const Numerics& n = s.problem.setting.numerics;
    double sum = 0.0, squares = 0.0;
    for (int64_t i = 0; i < width; ++i) sum += x[i];
    const float mean = static_cast<float>(sum / static_cast<double>(width));
    for (int64_t i = 0; i < width; ++i) {
      x[i] = x[i] - mean;
      squares += static_cast<double>(x[i]) * x[i];
    }
    const float mean_square = static_cast<float>(squares / static_cast<double>(width));
    const float r = cuda::reciprocal_sqrt(mean_square + n.index_norm_eps, n);
    for (int64_t i = 0; i < width; ++i)
      x[i] = (x[i] * r) * parameter(s.args.k_weight(i)) + parameter(s.args.k_bias(i));
    s.row(x).round();
  }

  FULGURITE_HOST_DEVICE void rotated(int64_t t, float* k) const {
    for (int64_t i = 0; i < s.problem.head_dim; ++i) k[i] = load(s.args.k, t, i);
    layer_norm(k);
    s.rotate(t, k);
    for (int64_t i = 0; s.args.rotated_k && i < s.problem.head_dim; ++i) s.args.rotated_k(t, i) = k[i];
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t t) const {
    const Args& args = s.args;
    const Numerics& n = s.problem.setting.numerics;
    const TokenPlace place = args.places(t);
    float k[kWidest];
    rotated(t, k);
    if (n.hadamard == Hadamard::kBoth) s.row(k).hadamard();
    const float scale = s.write_operand(k, args.key_cache.key(place.sequence, place.position));
    if (n.index_quant == IndexQuant::kFp8) args.key_cache.scale(place.sequence, place.position) = scale;
  }
};

// rotated_q and rotated_k alone.
struct ShowQuery {
  PrepareQuery prepare;
  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    float q[kWidest];
    prepare.rotated(index / prepare.s.problem.heads, index % prepare.s.problem.heads, q);
  }
};
struct ShowKey {
  PrepareKey prepare;
  FULGURITE_HOST_DEVICE void operator()(int64_t t) const {
    float k[kWidest];
    prepare.rotated(t, k);
  }
};

Steps steps_of(const Problem& problem, const Args& args) {
  return {problem, args, layout_in_force(problem), activation_type(problem.setting.numerics),
          index_rounding(problem.setting.numerics)};
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const Steps steps = steps_of(problem, args);
  const int64_t tokens = args.q.extent[0];
  cuda::for_each(lane, tokens * problem.heads, PrepareQuery{steps});
  if (problem.keys) cuda::for_each(lane, tokens, PrepareKey{steps});
}

}  // namespace

void show_rotated(const Problem& problem, const Args& args, const Lane& lane) {
  const Steps steps = steps_of(problem, args);
  const int64_t tokens = args.q.extent[0];
  cuda::for_each(lane, tokens * problem.heads, ShowQuery{{steps}});
  if (problem.keys) cuda::for_each(lane, tokens, ShowKey{{steps}});
}

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::indexer_prepare
