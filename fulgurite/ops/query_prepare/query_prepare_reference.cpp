#include <vector>

#include "fulgurite/core/element.h"
#include "fulgurite/core/rounding.h"
#include "fulgurite/ops/query_prepare/query_prepare.h"

namespace fulgurite::query_prepare {
namespace {

Support supports(const Problem& problem) {
  return first_refusal(
      {takes(problem.setting.numerics.activation, {Activation::kFp32, Activation::kBf16, Activation::kFp16}),
       takes_rsqrt(problem.setting)});
}

// The head, normed and rounded to the activation's type.
std::vector<float> normed(const Problem& problem, const Args& args, int64_t t, int64_t h) {
  double squares = 0.0;
  for (int64_t i = 0; i < problem.head_dim; ++i) {
    const double value = load(args.q, t, h, i);
    squares += value * value;
  }
  const float mean = static_cast<float>(squares / static_cast<double>(problem.head_dim));
  const float r = reciprocal_sqrt(mean + problem.eps, problem.setting.numerics);
  std::vector<float> head;
  for (int64_t i = 0; i < problem.head_dim; ++i)
    head.push_back(round_to(args.q.dtype, load(args.q, t, h, i) * r));
  return head;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t t = 0; t < args.q.extent[0]; ++t) {
    for (int64_t h = 0; h < problem.heads; ++h) {
      std::vector<float> head = normed(problem, args, t, h);
      for (int64_t i = 0; i < problem.head_dim && args.normed; ++i)
        args.normed(t, h, i) = head[static_cast<size_t>(i)];
      const int64_t p = args.places(t).position;
      rotary::rotate(rotary::Layout::kInterleaved, args.table.cosine[p].data, args.table.sine[p].data,
                     problem.rope, head.data() + problem.head_dim - problem.rope);
      for (int64_t i = 0; i < problem.head_dim; ++i) store(args.q, head[static_cast<size_t>(i)], t, h, i);
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::query_prepare
