#include "fulgurite/core/element.h"
#include "fulgurite/core/quantize.h"
#include "fulgurite/cuda/generic.h"
#include "fulgurite/ops/latent_prepare/latent_prepare.h"

namespace fulgurite::latent_prepare {
namespace {

Support supports(const Problem& problem) {
  return first_refusal({cuda::takes_generic(problem.setting), kReference.supports(problem)});
}

FULGURITE_HOST_DEVICE std::byte* row_at(const Args& args, int64_t t) { return args.cache.at(args.places(t)); }

// fp32 or bf16, as the row has what is no code.
FULGURITE_HOST_DEVICE void put(const LatentRow& row, float value, std::byte* values, int64_t i) {
  if (row.element_bytes() == 4)
    reinterpret_cast<float*>(values)[i] = value;
  else
    reinterpret_cast<bf16*>(values)[i] = to_bf16(value);
}

// Index: a token. Its latent, normed, rounded to the activation's type, and written.
struct NormLatent {
  Problem problem;
  Args args;

  FULGURITE_HOST_DEVICE float reciprocal_root(int64_t t) const {
    double squares = 0.0;
    for (int64_t i = 0; i < problem.latent; ++i) {
      const double value = load(args.kv, t, i);
      squares += value * value;
    }
    const float mean = static_cast<float>(squares / static_cast<double>(problem.latent));
    return cuda::reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
  }

  FULGURITE_HOST_DEVICE void operator()(int64_t t) const {
    const LatentRow& row = args.cache.row;
    std::byte* const to = row_at(args, t);
    const float r = reciprocal_root(t);
    for (int64_t first = 0; first < problem.latent; first += LatentRow::kGroup) {
      const int64_t count = cuda::least(LatentRow::kGroup, problem.latent - first);
      float group[LatentRow::kGroup];
      for (int64_t i = 0; i < count; ++i)
        group[i] = round_to(args.kv.dtype, args.weight(first + i) * (load(args.kv, t, first + i) * r));
      if (row.form == LatentCache::kFp8) {
        float* const scale = reinterpret_cast<float*>(to + row.scales_offset()) + first / LatentRow::kGroup;
        *scale = quantize_e4m3({group, static_cast<size_t>(count)}, ScaleRounding::kPow2,
                               reinterpret_cast<e4m3*>(to + first));
      } else {
        for (int64_t i = 0; i < count; ++i) put(row, group[i], to, first + i);
      }
    }
  }
};

// Index: a pair of a token's last dimensions, rotated, rounded and written.
struct RotateRest {
  Args args;
  int64_t latent, pairs;

  FULGURITE_HOST_DEVICE void operator()(int64_t index) const {
    const int64_t t = index / pairs, i = index % pairs, p = args.places(t).position;
    const float a = load(args.kv, t, latent + 2 * i), b = load(args.kv, t, latent + 2 * i + 1);
    const float c = args.table.cosine(p, i), s = args.table.sine(p, i);
    const LatentRow& row = args.cache.row;
    std::byte* const to = row_at(args, t) + row.rope_offset();
    put(row, round_to(args.kv.dtype, a * c - b * s), to, 2 * i);
    put(row, round_to(args.kv.dtype, a * s + b * c), to, 2 * i + 1);
  }
};

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  const int64_t tokens = args.kv.extent[0], pairs = problem.rope / 2;
  cuda::for_each(lane, tokens, NormLatent{problem, args});
  cuda::for_each(lane, tokens * pairs, RotateRest{args, problem.latent, pairs});
}

}  // namespace

const Implementation kCuda{"cuda", supports, no_workspace<Problem>, run, DeviceKind::kCuda};

}  // namespace fulgurite::latent_prepare
