#pragma once
// Repeats of one call on the clock: median and spread.

#include <cstdint>
#include <functional>
#include <vector>

namespace fulgurite::bench {

struct Timing {  // in seconds
  int64_t repeats = 0;
  double median = 0.0;
  double p10 = 0.0, p90 = 0.0;  // a tenth of the repeats was faster, a tenth slower
  double fastest = 0.0;
};

inline constexpr int64_t kFewestRepeats = 5;

// Calls before() and body() in turn, with the clock on body() alone, until `seconds` have passed in all, five
// times at least.
Timing time_repeats(const std::function<void()>& before, const std::function<void()>& body, double seconds);

// The summary of measured times; not empty.
Timing summary_of(std::vector<double> seconds);

}  // namespace fulgurite::bench
