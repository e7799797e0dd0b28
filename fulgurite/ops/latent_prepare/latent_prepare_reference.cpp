#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/ops/latent_prepare/latent_row.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::latent_prepare {
namespace {

norm::Problem norm_of(const Problem& problem) { return {problem.setting, problem.latent, problem.eps}; }

Support supports(const Problem& problem) {
  return first_refusal({norm::kReference.supports(norm_of(problem)),
                        takes(problem.setting.numerics.latent_cache,
                              {LatentCache::kFp32, LatentCache::kBf16, LatentCache::kFp8})});
}

// The token's latent, normed and rounded to the activation's type.
std::vector<float> normed_latent(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> bytes(static_cast<size_t>(problem.latent));
  Tensor<2> out = View<float, 2>(bytes.data(), {1, problem.latent});
  out.dtype = args.kv.dtype;
  norm::Args norm_args;
  norm_args.x = args.kv.slice(0, t, 1).slice(1, 0, problem.latent);
  norm_args.weight = args.weight;
  norm_args.out = out;
  norm::kReference.run(norm_of(problem), norm_args, {});
  std::vector<float> latent;
  for (int64_t i = 0; i < problem.latent; ++i) latent.push_back(load(out, int64_t{0}, i));
  return latent;
}

// Its last dimensions, rotated and rounded to the activation's type.
std::vector<float> rotated_part(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> part;
  for (int64_t i = 0; i < problem.rope; ++i) part.push_back(load(args.kv, t, problem.latent + i));
  const int64_t p = args.places(t).position;
  rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[p].data, args.table.sine[p].data,
                 problem.rope, part.data());
  for (float& value : part) value = round_to(args.kv.dtype, value);
  return part;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.kv.extent[0]; ++t) {
    std::vector<float> values = normed_latent(problem, args, t);
    for (const float value : rotated_part(problem, args, t)) values.push_back(value);
    store_row(args.cache, args.places(t),
              View<const float, 1>(values.data(), {static_cast<int64_t>(values.size())}));
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::latent_prepare
