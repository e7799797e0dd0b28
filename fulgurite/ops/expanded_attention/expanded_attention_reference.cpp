#include <vector>

#include "fulgurite/ops/expanded_attention/expanded_attention.h"
#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::expanded_attention {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32}), takes(numerics.mla, {Mla::kExpanded}),
       takes(numerics.latent_cache, {LatentCache::kFp32}), takes(numerics.softmax_tile, {SoftmaxTile::kNone}),
       takes(numerics.softmax_p, {SoftmaxP::kFp32}), takes(numerics.qk_operands, {QkOperands::kFp32}),
       takes(numerics.mma, {Mma::kExact})});
}

// One element of k or v: the cache row's latent part with one row of kv_b.
float expand(const PreparedMatrix& weight, int64_t weight_row, View<const float, 1> row) {
  double sum = 0.0;
  for (int64_t c = 0; c < weight.in; ++c)
    sum += static_cast<double>(row(c)) * exact_element(weight, weight_row, c);
  return static_cast<float>(sum);
}

// One head of one token.
struct Head {
  const Problem& problem;
  const PreparedMatrix& weight;
  int64_t first_weight_row;
  View<const float, 1> q;
  View<const float, 2> cache;
  View<const int32_t, 1> selected;
  View<float, 1> out;
};

float score(const Head& head, View<const float, 1> row) {
  const int64_t nope = head.problem.nope;
  double sum = 0.0;
  for (int64_t d = 0; d < nope; ++d)
    sum += static_cast<double>(head.q(d)) *
           static_cast<double>(expand(head.weight, head.first_weight_row + d, row));
  for (int64_t r = 0; r < head.problem.rope; ++r)
    sum += static_cast<double>(head.q(nope + r)) * static_cast<double>(row(head.problem.latent + r));
  return static_cast<float>(sum) * head.problem.scale;
}

void attend(const Head& head) {
  const int64_t count = sparse_attention::selected_rows(head.selected);
  std::vector<float> p(static_cast<size_t>(count));
  for (int64_t j = 0; j < count; ++j) p[static_cast<size_t>(j)] = score(head, head.cache[head.selected(j)]);
  const float sum = sparse_attention::reference_softmax(p);
  for (int64_t d = 0; d < head.problem.value; ++d) {
    const int64_t weight_row = head.first_weight_row + head.problem.nope + d;
    double weighted = 0.0;
    for (int64_t j = 0; j < count; ++j)
      weighted += static_cast<double>(p[static_cast<size_t>(j)]) *
                  static_cast<double>(expand(head.weight, weight_row, head.cache[head.selected(j)]));
    head.out(d) = static_cast<float>(weighted) / sum;
  }
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 3> q = args.q.as<float>();
  const View<const float, 3> cache = args.cache.as<float>();
  const View<float, 3> out = args.out.as<float>();
  for (int64_t t = 0; t < q.extent[0]; ++t)
    for (int64_t h = 0; h < problem.heads; ++h)
      attend({problem, *args.weight, h * (problem.nope + problem.value), q[t][h],
              cache[args.places(t).sequence], args.selected[t], out[t][h]});
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::expanded_attention
