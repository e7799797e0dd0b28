#include <cmath>
#include <limits>
#include <vector>

#include "fulgurite/ops/sparse_attention/sparse_attention.h"

namespace fulgurite::sparse_attention {
namespace {

Support supports(const Problem& problem) {
  const Numerics& numerics = problem.setting.numerics;
  return first_refusal(
      {takes(numerics.activation, {Activation::kFp32}), takes(numerics.mla, {Mla::kAbsorbed}),
       takes(numerics.latent_cache, {LatentCache::kFp32}), takes(numerics.softmax_tile, {SoftmaxTile::kNone}),
       takes(numerics.softmax_p, {SoftmaxP::kFp32}), takes(numerics.qk_operands, {QkOperands::kFp32}),
       takes(numerics.mma, {Mma::kExact})});
}

// One head of one token.
struct Head {
  View<const float, 1> q;
  View<const float, 1> q_rope;
  View<const float, 2> cache;
  View<const int32_t, 1> selected;
  float scale;
  View<float, 1> out;
};

float score(const Head& head, View<const float, 1> row) {
  const int64_t latent = head.q.extent[0];
  double sum = 0.0;
  for (int64_t c = 0; c < latent; ++c) sum += static_cast<double>(head.q(c)) * static_cast<double>(row(c));
  for (int64_t r = 0; r < head.q_rope.extent[0]; ++r)
    sum += static_cast<double>(head.q_rope(r)) * static_cast<double>(row(latent + r));
  return static_cast<float>(sum) * head.scale;
}

void attend(const Head& head) {
  const int64_t count = selected_rows(head.selected);
  std::vector<float> p(static_cast<size_t>(count));
  for (int64_t j = 0; j < count; ++j) p[static_cast<size_t>(j)] = score(head, head.cache[head.selected(j)]);
  const float sum = reference_softmax(p);
  for (int64_t c = 0; c < head.out.extent[0]; ++c) {
    double weighted = 0.0;
    for (int64_t j = 0; j < count; ++j)
      weighted += static_cast<double>(p[static_cast<size_t>(j)]) *
                  static_cast<double>(head.cache(head.selected(j), c));
    head.out(c) = static_cast<float>(weighted) / sum;
  }
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  const View<const float, 3> q = args.q.as<float>();
  const View<const float, 3> q_rope = args.q_rope.as<float>();
  const View<const float, 3> cache = args.cache.as<float>();
  const View<float, 3> out = args.out.as<float>();
  for (int64_t t = 0; t < q.extent[0]; ++t)
    for (int64_t h = 0; h < problem.heads; ++h)
      attend({q[t][h], q_rope[t][h], cache[args.places(t).sequence], args.selected[t], problem.scale,
              out[t][h]});
}

}  // namespace

float reference_softmax(std::span<float> scores) {
  float top = -std::numeric_limits<float>::infinity();
  for (const float score : scores) top = score > top ? score : top;
  double sum = 0.0;
  for (float& score : scores) {
    score = static_cast<float>(std::exp(static_cast<double>(score - top)));
    sum += static_cast<double>(score);
  }
  return static_cast<float>(sum);
}

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::sparse_attention
