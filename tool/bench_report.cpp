#include "tool/bench_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "fulgurite/plan/bytes.h"
#include "tool/table.h"

namespace fulgurite::tool {
namespace {

// One measurement beside the limits of its number of threads.
struct Line {
  const bench::Measurement* measurement;
  double gigabytes = 0.0, gigaflops = 0.0;  // a second
  bench::Bound bound;
  double share = 0.0;  // of what is possible
};

std::vector<Line> lines_of(const bench::Result& result, const std::vector<bench::Limits>& limits) {
  std::vector<Line> lines;
  for (const bench::Measurement& m : result.measurements) {
    const auto of_team =
        std::ranges::find_if(limits, [&](const bench::Limits& l) { return l.threads == m.threads; });
    Line line{&m, 0.0, 0.0, bench::bound_of(result.work, *of_team), 0.0};
    line.gigabytes = static_cast<double>(result.work.bytes) / m.timing.median * 1e-9;
    line.gigaflops = static_cast<double>(result.work.flops) / m.timing.median * 1e-9;
    line.share = line.bound.seconds / m.timing.median;
    lines.push_back(line);
  }
  return lines;
}

const char* name_of(bench::Cache cache) { return cache == bench::Cache::kCold ? "cold" : "warm"; }
const char* name_of(bench::Arithmetic arithmetic) {
  if (arithmetic == bench::Arithmetic::kCodes) return "codes";
  return arithmetic == bench::Arithmetic::kPairs ? "pairs" : "fp32";
}
const char* name_of(const bench::Bound& bound) { return bound.by_memory ? "memory" : "compute"; }

std::string microseconds(double seconds) {
  const double us = seconds * 1e6;
  return us < 100.0 ? fmt::format("{:.2f}", us) : fmt::format("{:.0f}", us);
}

std::vector<std::string> limit_cells(const bench::Limits& l, bool gpu) {
  if (gpu)
    return {"", fmt::format("{:.0f}", l.read_bytes * 1e-9), fmt::format("{:.1f}", l.pairs_flops * 1e-12),
            fmt::format("{:.1f}", l.codes_flops * 1e-12), fmt::format("{:.1f}", l.fp32_flops * 1e-12)};
  return {"", fmt::format("{}", l.threads), fmt::format("{:.1f}", l.read_bytes * 1e-9),
          fmt::format("{:.1f}", l.pairs_flops * 1e-9), fmt::format("{:.1f}", l.fp32_flops * 1e-9)};
}

Table limits_table(bool gpu) {
  const Align right = Align::kRight;
  if (gpu)
    return Table({{"limits"},
                  {"read GB/s", right},
                  {"bf16 TFLOP/s", right},
                  {"e4m3 TFLOP/s", right},
                  {"fp32 TFLOP/s", right}});
  return Table({{"limits"},
                {"threads", right},
                {"read GB/s", right},
                {"bf16 pairs GFLOP/s", right},
                {"fp32 GFLOP/s", right}});
}

void print_header(const bench::Request& request, const Device& device, const bench::Bench& bench) {
  const bool gpu = on_gpu(request);
  fmt::print("fulgurite " FULGURITE_VERSION " bench, shape {}\n", request.shape.name);
  fmt::print("device    {}: {}, {}\n", name(device.target.kind), device.model,
             gpu ? name(device.target) : std::string(name(request.setting.target.isa)));
  fmt::print("numerics  {}\n", summary(request.setting.numerics));
  if (gpu)
    fmt::print("cold      calls take turns among copies of their operands, {} in all\n\n",
               plan::human_bytes(bench::Replays{}.cold_bytes));
  else
    fmt::print("cold      {} read between repeats (the caches hold {})\n\n",
               plan::human_bytes(bench::LargeBuffer::flushed_bytes()),
               plan::human_bytes(bench::cache_bytes()));
  Table table = limits_table(gpu);
  for (const bench::Limits& l : bench.limits()) table.add(limit_cells(l, gpu));
  fmt::print("{}\n", table.text());
}

// Of a GPU: how often a replay calls, and on how many copies, in the place of threads.
Table measurement_table(bool gpu) {
  const Align right = Align::kRight;
  std::vector<Table::Column> columns{{"operation"}, {"case"}, {"tokens", right}, {"runs"}};
  if (gpu) columns.insert(columns.end(), {{"calls", right}, {"copies", right}});
  if (!gpu) columns.push_back({"threads", right});
  columns.insert(columns.end(), {{"cache"}, {"median us", right}, {"p10", right}, {"p90", right}});
  if (gpu) columns.push_back({"floor us", right});
  columns.insert(columns.end(), {{"GB/s", right}, {"GFLOP/s", right}, {"limit"}, {"share", right}, {""}});
  return Table(std::move(columns));
}

std::vector<std::string> measurement_cells(const Line& line, bool gpu) {
  const bench::Measurement& m = *line.measurement;
  std::vector<std::string> cells;
  if (gpu) cells = {fmt::format("{}", m.calls), fmt::format("{}", m.copies)};
  if (!gpu) cells = {fmt::format("{}", m.threads)};
  cells.insert(cells.end(), {name_of(m.cache), microseconds(m.timing.median), microseconds(m.timing.p10),
                             microseconds(m.timing.p90)});
  if (gpu) cells.push_back(microseconds(line.bound.seconds));
  cells.insert(cells.end(), {fmt::format("{:.1f}", line.gigabytes), fmt::format("{:.1f}", line.gigaflops),
                             name_of(line.bound), fmt::format("{:.0f} %", line.share * 100.0), "checked"});
  return cells;
}

void print_table(const std::vector<Outcome>& outcomes, const std::vector<bench::Limits>& limits, bool gpu) {
  Table table = measurement_table(gpu);
  for (const Outcome& outcome : outcomes) {
    const bench::Case& c = *outcome.bench_case;
    const std::vector<std::string> what{c.title(), c.detail, fmt::format("{}", c.tokens),
                                        outcome.result.implementation};
    const auto add = [&](const std::vector<std::string>& measured) {
      std::vector<std::string> cells = what;
      cells.insert(cells.end(), measured.begin(), measured.end());
      table.add(std::move(cells));
    };
    const auto add_none = [&](const char* state, const std::string& why) {
      std::vector<std::string> cells(gpu ? 12 : 10);
      cells.back() = state;
      add(cells);
      table.note(why);
    };
    if (outcome.result.failure)
      add_none("FAILED", *outcome.result.failure);
    else if (outcome.result.skipped)
      add_none("skipped", *outcome.result.skipped);
    for (const Line& line : lines_of(outcome.result, limits)) add(measurement_cells(line, gpu));
  }
  fmt::print("{}", table.text());
}

nlohmann::ordered_json json_of(const Outcome& outcome, const std::vector<bench::Limits>& limits) {
  const bench::Case& c = *outcome.bench_case;
  const bench::Result& result = outcome.result;
  nlohmann::ordered_json json{{"operation", c.operation},
                              {"name", c.name},
                              {"case", c.detail},
                              {"tokens", c.tokens},
                              {"implementation", result.implementation},
                              {"refused", result.refused},
                              {"checked", !result.failure && !result.skipped}};
  if (result.failure) {
    json["failure"] = *result.failure;
    return json;
  }
  if (result.skipped) json["skipped"] = *result.skipped;
  json["bytes"] = result.work.bytes;
  json["flops"] = result.work.flops;
  json["arithmetic"] = name_of(result.work.arithmetic);
  json["measurements"] = nlohmann::json::array();
  for (const Line& line : lines_of(result, limits)) {
    const bench::Timing& timing = line.measurement->timing;
    json["measurements"].push_back(nlohmann::ordered_json{{"threads", line.measurement->threads},
                                                          {"cache", name_of(line.measurement->cache)},
                                                          {"calls", line.measurement->calls},
                                                          {"copies", line.measurement->copies},
                                                          {"repeats", timing.repeats},
                                                          {"median_us", timing.median * 1e6},
                                                          {"p10_us", timing.p10 * 1e6},
                                                          {"p90_us", timing.p90 * 1e6},
                                                          {"fastest_us", timing.fastest * 1e6},
                                                          {"gb_per_s", line.gigabytes},
                                                          {"gflop_per_s", line.gigaflops},
                                                          {"limit", name_of(line.bound)},
                                                          {"limit_us", line.bound.seconds * 1e6},
                                                          {"share", line.share}});
  }
  return json;
}

}  // namespace

void print_tables(const bench::Request& request, const Device& device, const bench::Bench& bench,
                  const std::vector<Outcome>& outcomes) {
  print_header(request, device, bench);
  print_table(outcomes, bench.limits(), on_gpu(request));
}

void print_json(const bench::Request& request, const Device& device, const bench::Bench& bench,
                const std::vector<Outcome>& outcomes) {
  nlohmann::ordered_json json{{"version", FULGURITE_VERSION},
                              {"shape", request.shape.name},
                              {"device", {{"kind", name(device.target.kind)}, {"model", device.model}}}};
  if (on_gpu(request)) {
    json["device"]["target"] = name(device.target);
    json["cold_bytes"] = bench::Replays{}.cold_bytes;
  } else {
    json["device"]["isa"] = name(request.setting.target.isa);
    json["caches_bytes"] = bench::cache_bytes();
    json["flushed_bytes"] = bench::LargeBuffer::flushed_bytes();
  }
  for (const auto& [knob, value] : describe(request.setting.numerics)) json["numerics"][knob] = value;
  json["limits"] = nlohmann::json::array();
  for (const bench::Limits& l : bench.limits())
    json["limits"].push_back({{"threads", l.threads},
                              {"read_gb_per_s", l.read_bytes * 1e-9},
                              {"pairs_gflop_per_s", l.pairs_flops * 1e-9},
                              {"codes_gflop_per_s", l.codes_flops * 1e-9},
                              {"fp32_gflop_per_s", l.fp32_flops * 1e-9}});
  json["cases"] = nlohmann::json::array();
  for (const Outcome& outcome : outcomes) json["cases"].push_back(json_of(outcome, bench.limits()));
  fmt::print("{}\n", json.dump(2));
}

void print_progress(const Outcome& outcome, const std::vector<bench::Limits>& limits, bool gpu) {
  const bench::Case& c = *outcome.bench_case;
  fmt::print(stderr, "{}, {}, {} token(s):", c.title(), c.detail, c.tokens);
  if (outcome.result.failure) {
    fmt::print(stderr, " FAILED: {}\n", *outcome.result.failure);
    return;
  }
  if (outcome.result.skipped) fmt::print(stderr, " skipped: {};", *outcome.result.skipped);
  for (const Line& line : lines_of(outcome.result, limits)) {
    const bench::Measurement& m = *line.measurement;
    if (!gpu && m.cache != bench::Cache::kCold) continue;  // a CPU has both
    fmt::print(stderr, " {}{} us {}, {:.0f} % of {};", gpu ? "" : fmt::format("{} thread(s) ", m.threads),
               microseconds(m.timing.median), name_of(m.cache), line.share * 100.0, name_of(line.bound));
  }
  fmt::print(stderr, "\n");
}

}  // namespace fulgurite::tool
