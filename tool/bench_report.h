#pragma once
// What `fulgurite bench` prints.

#include "bench/run.h"

namespace fulgurite::tool {

struct Outcome {
  const bench::Case* bench_case;
  bench::Result result;
};

inline bool on_gpu(const bench::Request& request) { return request.setting.target.kind == DeviceKind::kCuda; }

// A case that is done, for who watches: a long run prints its table at the end.
void print_progress(const Outcome& outcome, const std::vector<bench::Limits>& limits, bool gpu);

void print_tables(const bench::Request& request, const Device& device, const bench::Bench& bench,
                  const std::vector<Outcome>& outcomes);
void print_json(const bench::Request& request, const Device& device, const bench::Bench& bench,
                const std::vector<Outcome>& outcomes);

}  // namespace fulgurite::tool
