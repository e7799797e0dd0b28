// A thread a row: the key of the last one that is chosen is found among all keys, then ids come as they stand.

#include <algorithm>
#include <functional>
#include <span>

#include "fulgurite/cpu/parallel_for.h"
#include "fulgurite/cpu/workspace.h"
#include "fulgurite/ops/largest_logits/largest_logits.h"

namespace fulgurite::largest_logits {
namespace {

Support supports(const Problem& problem) { return kReference.supports(problem); }

// Of each thread.
uint32_t* keys_of(const Problem& problem, int threads, cpu::Cutter& cutter) {
  return cutter.take<uint32_t>(threads * problem.vocabulary);
}

int64_t workspace_bytes(const Problem& problem, int threads) {
  cpu::Cutter cutter(nullptr);
  keys_of(problem, threads, cutter);
  return cutter.bytes();
}

void choose(const Args& args, int64_t row, std::span<uint32_t> keys) {
  const View<const float, 1> logits = args.logits[row];
  const int64_t count = args.ids.extent[1];
  std::transform(logits.data, logits.data + std::ssize(keys), keys.begin(), key_of);
  const int64_t numbers = std::ssize(keys) - std::ranges::count(keys, 0u), found = std::min(count, numbers);
  uint32_t least = 0;
  if (found > 0) {
    std::nth_element(keys.begin(), keys.begin() + (found - 1), keys.end(), std::greater<>());
    least = keys[static_cast<size_t>(found - 1)];
  }
  int64_t equal =
      found - std::count_if(keys.begin(), keys.begin() + found, [&](uint32_t key) { return key > least; });
  int64_t at = 0;
  for (int64_t i = 0; at < found; ++i) {
    const uint32_t key = key_of(logits(i));
    if (key < least || (key == least && equal-- <= 0)) continue;
    args.ids(row, at) = static_cast<int32_t>(i);
    args.values(row, at++) = logit_of(key);
  }
  for (; at < count; ++at) args.ids(row, at) = -1, args.values(row, at) = 0.0f;
  args.numbers(row) = static_cast<int32_t>(numbers);
}

double total_of(View<const float, 1> logits, double temperature) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < logits.extent[0]; ++i) largest = std::max(largest, key_of(logits(i)));
  double total = 0.0;
  for (int64_t i = 0; i < logits.extent[0]; ++i)
    if (key_of(logits(i)) != 0) total += weight(logits(i), logit_of(largest), temperature);
  return total;
}

void run(const Problem& problem, const Args& args, const Lane& lane) {
  check(problem, args);
  cpu::Cutter cutter(lane.workspace.data());
  uint32_t* const keys = keys_of(problem, lane.threads, cutter);
  cpu::parallel_for(lane, args.logits.extent[0], [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) {
      choose(args, row, {keys + thread * problem.vocabulary, static_cast<size_t>(problem.vocabulary)});
      const double temperature = args.temperatures(row);
      args.totals(row) = temperature > 0.0 ? total_of(args.logits[row], temperature) : 0.0;
    }
  });
}

}  // namespace

const Implementation kCpu{"cpu", supports, workspace_bytes, run};

}  // namespace fulgurite::largest_logits
