#pragma once
// Two predictions of the same text, token by token.

#include "fulgurite/audit/statistics.h"
#include "fulgurite/core/view.h"

namespace fulgurite::audit {

struct LikelihoodStatistics {
  int64_t tokens = 0;
  int64_t same_top = 0;      // the most probable token is the same
  int64_t not_finite = 0;    // logits with NaN or infinity on either side: nothing else counts them
  Mean kl;                   // Kullback-Leibler divergence of the other from the base, in nats
  Mean base_nll, other_nll;  // negative log-likelihood of the token that follows
  Mean nll_difference;       // other - base, token by token

  void add(View<const float, 1> other, View<const float, 1> base, int32_t target);
  double top_agreement() const;
};

}  // namespace fulgurite::audit
