#include "bench/timing.h"

#include <algorithm>
#include <chrono>

#include "fulgurite/core/assert.h"

namespace fulgurite::bench {

Timing summary_of(std::vector<double> seconds) {
  FULGURITE_ASSERT(!seconds.empty(), "no repeats");
  std::sort(seconds.begin(), seconds.end());
  const auto last = static_cast<double>(seconds.size() - 1);
  const auto at = [&](double share) { return seconds[static_cast<size_t>(share * last + 0.5)]; };
  const size_t half = seconds.size() / 2;
  Timing timing;
  timing.repeats = static_cast<int64_t>(seconds.size());
  timing.median = seconds.size() % 2 == 1 ? seconds[half] : (seconds[half - 1] + seconds[half]) / 2.0;
  timing.p10 = at(0.1);
  timing.p90 = at(0.9);
  timing.fastest = seconds.front();
  return timing;
}

Timing time_repeats(const std::function<void()>& before, const std::function<void()>& body, double seconds) {
  using Clock = std::chrono::steady_clock;
  const auto since = [](Clock::time_point start) {
    return std::chrono::duration<double>(Clock::now() - start).count();
  };
  std::vector<double> times;
  const Clock::time_point first = Clock::now();
  while (static_cast<int64_t>(times.size()) < kFewestRepeats || since(first) < seconds) {
    before();
    const Clock::time_point start = Clock::now();
    body();
    times.push_back(since(start));
  }
  return summary_of(std::move(times));
}

}  // namespace fulgurite::bench
