#include "bench/run.h"

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/cpu/thread_pool.h"

namespace fulgurite::bench {

std::vector<Case> cases_of(const Request& request, const std::vector<std::string>& operations) {
  std::vector<Case> all;
  add_linears(request, all);
  add_indexer(request, all);
  add_attention(request, all);
  add_feed_forward(request, all);
  add_small_steps(request, all);
  for (const std::string& operation : operations) {
    const auto named = [&](const Case& c) { return c.operation == operation || c.title() == operation; };
    if (std::ranges::none_of(all, named))
      fail(ErrorKind::kRequest, "{}: no such operation or case; bench --list names them",
           printable(operation));
  }
  if (operations.empty()) return all;
  std::erase_if(all, [&](const Case& c) {
    return std::ranges::none_of(operations, [&](const std::string& operation) {
      return c.operation == operation || c.title() == operation;
    });
  });
  return all;
}

Bound bound_of(const Work& work, const Limits& limits) {
  const double memory = static_cast<double>(work.bytes) / limits.read_bytes,
               compute = static_cast<double>(work.flops) / limits.flops(work.arithmetic);
  return {std::max(memory, compute), memory >= compute};
}

Bench::Bench(Isa isa, const std::vector<int>& threads, double seconds) : isa_(isa), seconds_(seconds) {
  for (const int count : threads) {
    teams_.push_back(std::make_unique<cpu::ThreadPool>(count));
    if (count > all_.threads || all_.workers == nullptr) all_ = {count, teams_.back().get(), {}};
  }
  buffer_ = std::make_unique<LargeBuffer>(all_);
  for (size_t team = 0; team < teams_.size(); ++team)
    limits_.push_back(measure_limits(*buffer_, isa, lane(team, {})));
}

void Bench::measure_limits_again() {
  for (size_t team = 0; team < teams_.size(); ++team) {
    const Limits again = measure_limits(*buffer_, isa_, lane(team, {}));
    Limits& best = limits_[team];
    best.read_bytes = std::max(best.read_bytes, again.read_bytes);
    best.pairs_flops = std::max(best.pairs_flops, again.pairs_flops);
    best.fp32_flops = std::max(best.fp32_flops, again.fp32_flops);
  }
}

Lane Bench::lane(size_t team, std::span<std::byte> workspace) const {
  return {teams_[team]->threads(), teams_[team].get(), workspace};
}

Result Bench::run(const Case& bench_case) {
  Result result;
  try {
    const std::unique_ptr<Runnable> runnable = bench_case.make();
    result.implementation = runnable->implementation();
    result.refused = runnable->refused();
    result.work = runnable->work();
    for (size_t team = 0; team < teams_.size(); ++team) {
      const HostBuffer workspace(runnable->workspace_bytes(teams_[team]->threads()));
      const Lane lane = this->lane(team, workspace.bytes());
      if (team == 0) result.failure = runnable->judge(lane);
      if (!result.failure) result.failure = runnable->compare(lane);
      if (result.failure) break;
      const auto body = [&] { runnable->run(lane); };
      const auto flush = [&] { buffer_->flush(all_); };
      result.measurements.push_back({lane.threads, Cache::kCold, time_repeats(flush, body, seconds_)});
      body();  // the flush of the last cold repeat
      result.measurements.push_back({lane.threads, Cache::kWarm, time_repeats([] {}, body, seconds_)});
    }
  } catch (const Error& error) {
    result.failure = error.what();
  }
  if (result.failure) result.measurements.clear();
  return result;
}

}  // namespace fulgurite::bench
