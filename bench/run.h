#pragma once
// Cases judged, then timed: cold and warm, on one thread and on all.

#include "bench/case.h"
#include "bench/timing.h"

namespace fulgurite::bench {

// Cold: between two repeats, more than the caches hold is read, so that every operand comes from memory.
// Warm: the operands of the repeat before, as far as the caches hold them.
enum class Cache { kCold, kWarm };

struct Measurement {
  int threads = 1;
  Cache cache = Cache::kCold;
  Timing timing;
};

struct Result {
  std::string implementation;
  std::vector<std::string> refused;
  Work work;
  Failure failure;  // then nothing was timed
  std::vector<Measurement> measurements;
};

// Least time that the work can take: bytes at the measured bandwidth or operations at the measured peak.
struct Bound {
  double seconds = 0.0;
  bool by_memory = true;
};
Bound bound_of(const Work& work, const Limits& limits);

// The threads that cases are timed on, and what those can do at most. Its buffer stays for the cold runs.
class Bench {
 public:
  // `threads`: each number of threads to time on, not empty.
  Bench(Isa isa, const std::vector<int>& threads, double seconds);

  // One a number of threads.
  const std::vector<Limits>& limits() const { return limits_; }
  // Once more, for a machine that was busy before: the better of the two counts.
  void measure_limits_again();
  Result run(const Case& bench_case);

  // Bytes that it holds itself.
  static int64_t own_bytes() { return LargeBuffer::size(); }

 private:
  Lane lane(size_t team, std::span<std::byte> workspace) const;

  std::vector<std::unique_ptr<Workers>> teams_;
  Lane all_;  // the largest team
  Isa isa_;
  double seconds_;
  std::unique_ptr<LargeBuffer> buffer_;
  std::vector<Limits> limits_;
};

}  // namespace fulgurite::bench
