#include "bench/run.h"

#include <algorithm>
#include <exception>

#include "fulgurite/cpu/thread_pool.h"

namespace fulgurite::bench {

Bound bound_of(const Work& work, const Limits& limits) {
  const double memory = static_cast<double>(work.bytes) / limits.read_bytes,
               compute = static_cast<double>(work.flops) / limits.flops(work.arithmetic);
  return {std::max(memory, compute), memory >= compute};
}

void Bench::measure_limits_again() {
  const std::vector<Limits> again = measured();
  for (size_t i = 0; i < limits_.size(); ++i)
    for (double Limits::*const limit :
         {&Limits::read_bytes, &Limits::pairs_flops, &Limits::fp32_flops, &Limits::codes_flops})
      limits_[i].*limit = std::max(limits_[i].*limit, again[i].*limit);
}

Result Bench::run(const Case& bench_case) {
  Result result;
  try {
    judge_and_time(bench_case, result);
  } catch (const std::exception& error) {  // an Error, or no memory for its operands
    result.failure = error.what();
  }
  if (result.failure) result.measurements.clear();
  return result;
}

CpuBench::CpuBench(Isa isa, const std::vector<int>& threads, double seconds) : isa_(isa), seconds_(seconds) {
  for (const int count : threads) {
    teams_.push_back(std::make_unique<cpu::ThreadPool>(count));
    if (count > all_.threads || all_.workers == nullptr) all_ = {count, teams_.back().get(), {}};
  }
  buffer_ = std::make_unique<LargeBuffer>(all_);
  limits_ = measured();
}

std::vector<Limits> CpuBench::measured() const {
  std::vector<Limits> limits;
  for (size_t team = 0; team < teams_.size(); ++team)
    limits.push_back(measure_limits(*buffer_, isa_, lane(team, {})));
  return limits;
}

Lane CpuBench::lane(size_t team, std::span<std::byte> workspace) const {
  return {teams_[team]->threads(), teams_[team].get(), workspace};
}

void CpuBench::judge_and_time(const Case& bench_case, Result& result) {
  const std::unique_ptr<Runnable> runnable = bench_case.make();
  result.implementation = runnable->implementation();
  result.refused = runnable->refused();
  result.work = runnable->work();
  for (size_t team = 0; team < teams_.size(); ++team) {
    const HostBuffer workspace(runnable->workspace_bytes(teams_[team]->threads()));
    const Lane lane = this->lane(team, workspace.bytes());
    if (team == 0) result.failure = runnable->judge(lane);
    if (!result.failure) result.failure = runnable->compare(lane);
    if (result.failure) return;
    const auto body = [&] { runnable->run(lane); };
    const auto flush = [&] { buffer_->flush(all_); };
    result.measurements.push_back({lane.threads, Cache::kCold, time_repeats(flush, body, seconds_)});
    body();  // the flush of the last cold repeat
    result.measurements.push_back({lane.threads, Cache::kWarm, time_repeats([] {}, body, seconds_)});
  }
}

}  // namespace fulgurite::bench
