#include <algorithm>
#include <vector>

#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::largest_logits {
namespace {

Support supports(const Problem&) { return std::nullopt; }

// Ids of numbers, the largest first.
std::vector<int32_t> in_order(View<const float, 1> logits) {
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < logits.extent[0]; ++i)
    if (logits(i) == logits(i)) ids.push_back(static_cast<int32_t>(i));
  std::ranges::sort(
      ids, [&](int32_t a, int32_t b) { return logits(a) != logits(b) ? logits(a) > logits(b) : a < b; });
  return ids;
}

void run(const Problem& problem, const Args& args, const Lane&) {
  check(problem, args);
  for (int64_t row = 0; row < args.logits.extent[0]; ++row) {
    const View<const float, 1> logits = args.logits[row];
    std::vector<int32_t> ids = in_order(logits);
    const double temperature = args.temperatures(row);
    args.numbers(row) = static_cast<int32_t>(ids.size());
    args.totals(row) = 0.0;
    for (int64_t i = 0; temperature > 0.0 && i < logits.extent[0]; ++i)
      if (logits(i) == logits(i)) args.totals(row) += weight(logits(i), logits(ids.front()), temperature);
    const int64_t count = args.ids.extent[1], found = std::min(count, std::ssize(ids));
    std::sort(ids.begin(), ids.begin() + found);
    for (int64_t i = 0; i < count; ++i) {
      args.ids(row, i) = i < found ? ids[static_cast<size_t>(i)] : -1;
      args.values(row, i) = i < found ? logits(args.ids(row, i)) + 0.0f : 0.0f;
    }
  }
}

}  // namespace

const Implementation kReference{"reference", supports, no_workspace<Problem>, run};

}  // namespace fulgurite::largest_logits
