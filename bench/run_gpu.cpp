#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "bench/replay.h"
#include "bench/run.h"

namespace fulgurite::bench {
namespace {

constexpr double kReplaySeconds = 1e-3;  // of a replay: gaps between replays do not count
constexpr double kLongCall =
    5e-3;  // finds its operands cold, as it moves more than the cache holds, or does not care
constexpr int64_t kMostCalls = 1024;  // of a replay

double seconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

bool is_generic(const std::string& implementation) { return implementation == "cuda"; }

}  // namespace

GpuBench::GpuBench(const Device& device, const Replays& replays, Limits (*measure)(void* stream))
    : device_(device),
      replays_(replays),
      measure_(measure),
      stream_(device.accelerator->open_stream()),
      workers_(device.make_workers == nullptr ? nullptr : device.make_workers(device.threads)) {
  limits_ = measured();
}

GpuBench::~GpuBench() { device_.accelerator->close_stream(stream_); }

std::vector<Limits> GpuBench::measured() const { return {measure_(stream_)}; }

void GpuBench::judge_and_time(const Case& bench_case, Result& result) {
  const Accelerator& gpu = *device_.accelerator;
  const std::unique_ptr<Runnable> runnable = bench_case.make();
  result.implementation = runnable->implementation();
  result.refused = runnable->refused();
  result.work = runnable->work();
  const double predicted = static_cast<double>(result.work.flops + bench_case.steps) / kGenericSteps;
  if (is_generic(result.implementation) && predicted > replays_.longest) {
    result.skipped = fmt::format("a generic row, predicted to take {:.1f} s a call", predicted);
    return;
  }
  const Buffer workspace(*gpu.own, runnable->workspace_bytes(device_.threads));
  Lane lane{
      device_.threads, workers_.get(), {workspace.data(), static_cast<size_t>(workspace.size())}, stream_};
  lane.waits = true;
  result.failure = runnable->judge_on(gpu, lane);
  lane.waits = false;
  if (!result.failure) result.measurements = {measure(*runnable, lane, result)};
  if (result.skipped) result.measurements.clear();
}

Measurement GpuBench::measure(const Runnable& runnable, const Lane& lane, Result& result) const {
  const Accelerator& gpu = *device_.accelerator;
  std::unique_ptr<Turns> turns = runnable.turns(gpu, stream_, 0, 0);
  double once = 0.0;
  for (int i = 0; i < 2; ++i)  // the first loads the kernels
    once = seconds_of([&] {
      turns->run(0, lane);
      gpu.wait(stream_);
    });
  if (once > replays_.longest) {
    result.skipped = fmt::format("a call takes {:.1f} s", once);
    return {};
  }
  Measurement m;
  if (once < kLongCall) {
    turns.reset();
    turns = runnable.turns(gpu, stream_, replays_.cold_bytes, device_.available_bytes / 2);
    const auto wanted = static_cast<int64_t>(std::ceil(kReplaySeconds / once));
    m.copies = turns->count();
    m.calls =
        m.copies * std::clamp<int64_t>(wanted / m.copies, 1, std::max<int64_t>(kMostCalls / m.copies, 1));
  }
  if (m.copies * result.work.bytes < replays_.cold_bytes) m.cache = Cache::kWarm;
  const int fewest = once * replays_.fewest < 1.0 ? replays_.fewest : static_cast<int>(kFewestRepeats);
  std::vector<double> times = replay_times(
      gpu, stream_,
      [&] {
        for (int64_t i = 0; i < m.calls; ++i) turns->run(i % m.copies, lane);
      },
      fewest, replays_.seconds);
  for (double& seconds : times) seconds /= static_cast<double>(m.calls);
  m.timing = summary_of(std::move(times));
  return m;
}

}  // namespace fulgurite::bench
