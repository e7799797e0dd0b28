#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/ops/kv_prepare/kv_prepare.h"
#include "fulgurite/ops/norm/norm.h"

namespace fulgurite::kv_prepare {
namespace {

norm::Problem norm_of(const Problem& problem) { return {problem.setting, problem.head_dim, problem.eps}; }

Support supports(const Problem& problem) {
  return first_refusal({norm::kReference.supports(norm_of(problem)), takes_kv_row(problem.setting.numerics)});
}

// The token's row, normed and rounded to the activation's type.
std::vector<float> normed(const Problem& problem, const Args& args, int64_t t) {
  std::vector<float> bytes(static_cast<size_t>(problem.head_dim));
  Tensor<2> out = View<float, 2>(bytes.data(), {1, problem.head_dim});
  out.dtype = args.kv.dtype;
  norm::Args norm_args;
  norm_args.x = args.kv.slice(0, t, 1);
  norm_args.weight = args.weight;
  norm_args.out = out;
  norm::kReference.run(norm_of(problem), norm_args, {});
  std::vector<float> row;
  for (int64_t i = 0; i < problem.head_dim; ++i) row.push_back(load(out, int64_t{0}, i));
  return row;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.kv.extent[0]; ++t) {
    const TokenPlace place = args.places(t);
    std::vector<float> row = normed(problem, args, t);
    rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[place.position].data,
                   args.table.sine[place.position].data, problem.rope,
                   row.data() + problem.head_dim - problem.rope);
    for (float& value : row) value = round_to(args.kv.dtype, value);
    store_kv_row(args.cache, place.sequence, place.position % problem.ring, row,
                 problem.setting.numerics.kv_quant);
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::kv_prepare
