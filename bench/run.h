#pragma once
// Cases judged, then timed. On a CPU cold and warm, on one thread and on all; on a GPU captured and replayed.

#include "bench/case.h"
#include "bench/timing.h"
#include "fulgurite/core/device.h"

namespace fulgurite::bench {

// Cold: between two repeats, more than the caches hold is read, so that every operand comes from memory.
// Warm: the operands of the repeat before, as far as the caches hold them. On a GPU cold says that a call's
// operands are its own, and those of the calls until its next turn more than the cache holds.
enum class Cache { kCold, kWarm };

struct Measurement {
  int threads = 1;
  Cache cache = Cache::kCold;
  Timing timing;
  int64_t calls = 1;   // of a repeat; times are of one
  int64_t copies = 1;  // of the operands, which calls take in turn
};

struct Result {
  std::string implementation;
  std::vector<std::string> refused;
  Work work;
  Failure failure;                     // then nothing was timed
  std::optional<std::string> skipped;  // why nothing was judged or timed: it would take too long
  std::vector<Measurement> measurements;
};

// Least time that the work can take: bytes at the measured bandwidth or operations at the measured peak.
struct Bound {
  double seconds = 0.0;
  bool by_memory = true;
};
Bound bound_of(const Work& work, const Limits& limits);

class Bench {
 public:
  virtual ~Bench() = default;

  // On a CPU one a number of threads.
  const std::vector<Limits>& limits() const { return limits_; }
  // Once more, for a machine that was busy before: the better of the two counts.
  void measure_limits_again();
  Result run(const Case& bench_case);

 protected:
  virtual std::vector<Limits> measured() const = 0;
  virtual void judge_and_time(const Case& bench_case, Result& result) = 0;  // may throw: then the case failed

  std::vector<Limits> limits_;
};

// The threads that cases are timed on, and what those can do at most. Its buffer stays for the cold runs.
class CpuBench : public Bench {
 public:
  // `threads`: each number of threads to time on, not empty.
  CpuBench(Isa isa, const std::vector<int>& threads, double seconds);

  // Bytes that it holds itself.
  static int64_t own_bytes() { return LargeBuffer::size(); }

 private:
  std::vector<Limits> measured() const override;
  void judge_and_time(const Case& bench_case, Result& result) override;
  Lane lane(size_t team, std::span<std::byte> workspace) const;

  std::vector<std::unique_ptr<Workers>> teams_;
  Lane all_;  // the largest team
  Isa isa_;
  double seconds_;
  std::unique_ptr<LargeBuffer> buffer_;
};

// How calls on a GPU are timed.
struct Replays {
  double seconds = 0.5;  // in all, and `fewest` replays (of long calls: kFewestRepeats)
  int fewest = 15;
  // Together more than twice what the cache of any GPU from 8.0 on holds (an H100's: 50 MiB).
  int64_t cold_bytes = int64_t{160} << 20;
  // Seconds that one call may take. Cases beyond are skipped: generic rows by what is predicted, others by what the
  // first call takes.
  double longest = 1.0;
};

// Calls on a stream of a GPU, captured in a graph and replayed.
class GpuBench : public Bench {
 public:
  // `measure`: measure_gpu_limits, or a test's.
  GpuBench(const Device& device, const Replays& replays, Limits (*measure)(void* stream));
  ~GpuBench() override;

  // Steps a second that a generic row is predicted to do: each sum by one thread, in double.
  static constexpr double kGenericSteps = 1e11;

 private:
  std::vector<Limits> measured() const override;
  void judge_and_time(const Case& bench_case, Result& result) override;
  Measurement measure(const Runnable& runnable, const Lane& lane, Result& result) const;

  const Device device_;
  Replays replays_;
  Limits (*measure_)(void* stream);
  void* stream_;
  std::unique_ptr<Workers> workers_;
};

}  // namespace fulgurite::bench
