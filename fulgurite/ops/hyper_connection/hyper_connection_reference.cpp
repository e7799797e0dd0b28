#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/hyper_connection/coefficients.h"

namespace fulgurite::hyper_connection {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  if (problem.streams != kStreams)
    return Refusal{"streams = " + std::to_string(problem.streams) + ", takes 4"};
  return first_refusal({takes(numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
                        takes(numerics.mma, {Mma::kExact}), takes_rsqrt(problem.setting)});
}

// streams_out of token t, and what mixing and collapse read of it: X', flat.
std::vector<float> update(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> flat(static_cast<size_t>(kStreams * problem.hidden));
  for (int64_t i = 0; i < problem.hidden; ++i) {
    float updated[kStreams];
    for (int64_t k = 0; k < kStreams; ++k) {
      updated[k] = load(args.streams, t, k, i);
      if (!args.block) continue;
      updated[k] = 0.0f + args.post(t, k) * load(args.block, t, i);
      for (int64_t j = 0; j < kStreams; ++j) updated[k] += args.mix(t, j, k) * load(args.streams, t, j, i);
    }
    for (int64_t k = 0; k < kStreams; ++k) {
      if (args.replaced) updated[k] = args.replaced(t, k * problem.hidden + i);
      if (updates(args)) store(args.streams_out, updated[k], t, k, i);
      const bool rounds = args.block && !args.replaced;
      flat[static_cast<size_t>(k * problem.hidden + i)] =
          rounds ? round_to(args.streams.dtype, updated[k]) : updated[k];
    }
  }
  return flat;
}

std::vector<float> m_of(const Problem& problem, const Args& args, const std::vector<float>& flat) {
  double squares = 0.0;
  for (const float value : flat) squares += static_cast<double>(value) * static_cast<double>(value);
  const float mean = static_cast<float>(squares / static_cast<double>(flat.size()));
  const float r = reciprocal_sqrt(mean + problem.norm_eps, problem.setting.numerics);
  std::vector<float> m;
  for (int64_t n = 0; n < outputs(problem); ++n) {
    double sum = 0.0;
    for (size_t i = 0; i < flat.size(); ++i)
      sum += static_cast<double>(flat[i]) * static_cast<double>(args.fn(n, static_cast<int64_t>(i)));
    m.push_back(static_cast<float>(sum) * r);
  }
  return m;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.streams.extent[0]; ++t) {
    const std::vector<float> flat = update(problem, args, t);
    const Coefficients c = coefficients_of(problem, args, m_of(problem, args, flat).data());
    for (int64_t j = 0; j < kStreams && problem.kind == Kind::kLayer; ++j) {
      args.post_out(t, j) = c.post[j];
      for (int64_t k = 0; k < kStreams; ++k) args.mix_out(t, j, k) = c.mix[j][k];
    }
    for (int64_t i = 0; i < problem.hidden; ++i) {
      float sum = 0.0f;
      for (int64_t j = 0; j < kStreams; ++j)
        sum += c.pre[j] * flat[static_cast<size_t>(j * problem.hidden + i)];
      store(args.collapsed, sum, t, i);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::hyper_connection
