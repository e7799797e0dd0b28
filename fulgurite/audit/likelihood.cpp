#include "fulgurite/audit/likelihood.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace fulgurite::audit {
namespace {

// log softmax, in double; empty where a logit is not finite.
std::vector<double> log_softmax(View<const float, 1> logits) {
  std::vector<double> logs;
  for (int64_t i = 0; i < logits.extent[0]; ++i) {
    if (!std::isfinite(logits(i))) return {};
    logs.push_back(logits(i));
  }
  const double largest = *std::ranges::max_element(logs);
  double sum = 0.0;
  for (const double logit : logs) sum += std::exp(logit - largest);
  for (double& logit : logs) logit -= largest + std::log(sum);
  return logs;
}

}  // namespace

void LikelihoodStatistics::add(View<const float, 1> other, View<const float, 1> base, int32_t target) {
  tokens += 1;
  const std::vector<double> q = log_softmax(other), p = log_softmax(base);
  if (q.empty() || p.empty()) {
    not_finite += 1;
    return;
  }
  same_top += std::ranges::max_element(p) - p.begin() == std::ranges::max_element(q) - q.begin();
  double divergence = 0.0;
  for (size_t i = 0; i < p.size(); ++i) divergence += std::exp(p[i]) * (p[i] - q[i]);
  kl.add(std::max(divergence, 0.0));
  const auto next = static_cast<size_t>(target);
  base_nll.add(-p[next]);
  other_nll.add(-q[next]);
  nll_difference.add(p[next] - q[next]);
}

double LikelihoodStatistics::top_agreement() const {
  return tokens == 0 ? 1.0 : static_cast<double>(same_top) / static_cast<double>(tokens);
}

}  // namespace fulgurite::audit
