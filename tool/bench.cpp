// fulgurite bench: every operation at real dimensions, judged against its reference and then timed, beside
// what the machine can do at most.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/run.h"
#include "fulgurite/core/error.h"
#include "fulgurite/cpu/machine.h"
#include "fulgurite/plan/bytes.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/projection_errors.h"
#include "tool/table.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  std::vector<std::string> operations;
  std::string shape = "v32-671b";
  std::string threads;  // "": one and all
  std::string tokens;   // "": what each operation meets
  std::string numerics = "serving";
  std::string activation;  // "": as numerics says
  std::string implementation;
  std::string isa;  // "": the machine's best
  double seconds = 0.5;
  bool json = false;
  bool list = false;
  bool errors = false;
};

Isa isa_named(const std::string& name, Isa best) {
  if (name.empty()) return best;
  std::vector<std::string_view> names;
  for (int i = 0; i <= static_cast<int>(best); ++i) {
    names.push_back(fulgurite::name(static_cast<Isa>(i)));
    if (names.back() == name) return static_cast<Isa>(i);
  }
  fail(ErrorKind::kRequest, "isa: expected {} on this machine, found \"{}\"", fmt::join(names, " or "),
       printable(name, 80));
}

std::vector<int> thread_counts(const std::string& text, int all) {
  if (text.empty()) return all > 1 ? std::vector<int>{1, all} : std::vector<int>{1};
  if (text == "all") return {all};
  try {
    return {static_cast<int>(parse_integer(text, 1, kMostThreads))};
  } catch (const Error&) {
    fail(ErrorKind::kRequest, "threads: expected all or a number from 1 to {}, found \"{}\"", kMostThreads,
         printable(text, 80));
  }
}

// "1,8,512"
std::vector<int64_t> token_counts(const std::string& text) {
  std::vector<int64_t> counts;
  if (text.empty()) return counts;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const int64_t count = parse_integer(text.substr(at, comma - at), 1, int64_t{1} << 20);
    if (std::ranges::find(counts, count) != counts.end()) fail(ErrorKind::kRequest, "{} stands twice", count);
    counts.push_back(count);
    at = comma + 1;
  }
  return counts;
}

// What is asked for, all of it understood.
struct Asked {
  Device device;
  bench::Request request;
  std::vector<bench::Case> cases;  // of request
  std::vector<int> threads;
};

bench::Request request_of(const Options& options, const Device& device) {
  bench::Request request;
  request.shape = bench::shape_named(options.shape);
  request.setting = {{DeviceKind::kCpu, isa_named(options.isa, device.target.isa)},
                     parse_numerics(options.numerics)};
  request.setting.numerics =
      request.setting.numerics.resolved(request.shape.activation_scale, request.shape.index_quant);
  request.catalog = &plan::catalog();
  request.implementation = options.implementation;
  try {
    request.tokens = token_counts(options.tokens);
  } catch (const Error& error) {
    fail(ErrorKind::kRequest, "tokens: {}", error.what());
  }
  return request;
}

// Throws CLI::ValidationError, before anything is measured.
std::shared_ptr<const Asked> understood(const Options& options) {
  const auto asked = std::make_shared<Asked>();
  asked->device = cpu::machine();
  if (options.errors && options.operations != std::vector<std::string>{"indexer_projection"})
    throw CLI::ValidationError("--errors: expected OP indexer_projection alone");
  try {
    asked->request = request_of(options, asked->device);
    asked->cases = bench::cases_of(asked->request, options.operations);
    asked->threads = thread_counts(options.threads, asked->device.threads);
  } catch (const Error& error) {
    throw CLI::ValidationError(error.what());
  }
  return asked;
}

// Before anything runs: the largest case and what the clock itself needs.
void require_memory(const std::vector<bench::Case>& cases, int64_t available) {
  for (const bench::Case& c : cases) {
    const int64_t needed = c.memory_bytes + bench::Bench::own_bytes();
    if (needed > available)
      fail(ErrorKind::kMemory,
           "{} of {} tokens needs {}; available: {}. Name the operations that fit (--list)", c.title(),
           c.tokens, plan::human_bytes(needed), plan::human_bytes(available));
  }
}

int print_list(const std::vector<bench::Case>& cases) {
  Table table({{"operation"}, {"case"}, {"tokens", Align::kRight}, {"memory", Align::kRight}});
  for (const bench::Case& c : cases)
    table.add({c.title(), c.detail, fmt::format("{}", c.tokens), plan::human_bytes(c.memory_bytes)});
  fmt::print("{}", table.text());
  return 0;
}

int print_list_json(const std::vector<bench::Case>& cases) {
  nlohmann::ordered_json json = nlohmann::json::array();
  for (const bench::Case& c : cases)
    json.push_back(nlohmann::ordered_json{{"operation", c.operation},
                                          {"name", c.name},
                                          {"case", c.detail},
                                          {"tokens", c.tokens},
                                          {"memory_bytes", c.memory_bytes}});
  fmt::print("{}\n", json.dump(2));
  return 0;
}

struct Outcome {
  const bench::Case* bench_case;
  bench::Result result;
};

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
const char* name_of(const bench::Bound& bound) { return bound.by_memory ? "memory" : "compute"; }

std::string microseconds(double seconds) {
  const double us = seconds * 1e6;
  return us < 100.0 ? fmt::format("{:.2f}", us) : fmt::format("{:.0f}", us);
}

void print_header(const bench::Request& request, const Device& device, const bench::Bench& bench) {
  fmt::print("fulgurite " FULGURITE_VERSION " bench, shape {}\n", request.shape.name);
  fmt::print("device    cpu: {}, {}\n", device.model, name(request.setting.target.isa));
  fmt::print("numerics  {}\n", summary(request.setting.numerics));
  fmt::print("cold      {} read between repeats (the caches hold {})\n\n",
             plan::human_bytes(bench::LargeBuffer::flushed_bytes()), plan::human_bytes(bench::cache_bytes()));
  Table table({{"limits"},
               {"threads", Align::kRight},
               {"read GB/s", Align::kRight},
               {"bf16 pairs GFLOP/s", Align::kRight},
               {"fp32 GFLOP/s", Align::kRight}});
  for (const bench::Limits& l : bench.limits())
    table.add({"", fmt::format("{}", l.threads), fmt::format("{:.1f}", l.read_bytes * 1e-9),
               fmt::format("{:.1f}", l.pairs_flops * 1e-9), fmt::format("{:.1f}", l.fp32_flops * 1e-9)});
  fmt::print("{}\n", table.text());
}

void print_table(const std::vector<Outcome>& outcomes, const std::vector<bench::Limits>& limits) {
  Table table({{"operation"},
               {"case"},
               {"tokens", Align::kRight},
               {"runs"},
               {"threads", Align::kRight},
               {"cache"},
               {"median us", Align::kRight},
               {"p10", Align::kRight},
               {"p90", Align::kRight},
               {"GB/s", Align::kRight},
               {"GFLOP/s", Align::kRight},
               {"limit"},
               {"share", Align::kRight},
               {""}});
  for (const Outcome& outcome : outcomes) {
    const bench::Case& c = *outcome.bench_case;
    const std::string tokens = fmt::format("{}", c.tokens);
    if (outcome.result.failure) {
      table.add({c.title(), c.detail, tokens, outcome.result.implementation, "", "", "", "", "", "", "", "",
                 "", "FAILED"});
      table.note(*outcome.result.failure);
      continue;
    }
    for (const Line& line : lines_of(outcome.result, limits)) {
      const bench::Timing& timing = line.measurement->timing;
      table.add({c.title(), c.detail, tokens, outcome.result.implementation,
                 fmt::format("{}", line.measurement->threads), name_of(line.measurement->cache),
                 microseconds(timing.median), microseconds(timing.p10), microseconds(timing.p90),
                 fmt::format("{:.1f}", line.gigabytes), fmt::format("{:.1f}", line.gigaflops),
                 name_of(line.bound), fmt::format("{:.0f} %", line.share * 100.0), "checked"});
    }
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
                              {"checked", !result.failure}};
  if (result.failure) {
    json["failure"] = *result.failure;
    return json;
  }
  json["bytes"] = result.work.bytes;
  json["flops"] = result.work.flops;
  json["arithmetic"] = result.work.arithmetic == bench::Arithmetic::kPairs ? "pairs" : "fp32";
  json["measurements"] = nlohmann::json::array();
  for (const Line& line : lines_of(result, limits)) {
    const bench::Timing& timing = line.measurement->timing;
    json["measurements"].push_back(nlohmann::ordered_json{{"threads", line.measurement->threads},
                                                          {"cache", name_of(line.measurement->cache)},
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

void print_json(const bench::Request& request, const Device& device, const bench::Bench& bench,
                const std::vector<Outcome>& outcomes) {
  nlohmann::ordered_json json{
      {"version", FULGURITE_VERSION},
      {"shape", request.shape.name},
      {"device", {{"model", device.model}, {"isa", name(request.setting.target.isa)}}},
      {"caches_bytes", bench::cache_bytes()},
      {"flushed_bytes", bench::LargeBuffer::flushed_bytes()}};
  for (const auto& [knob, value] : describe(request.setting.numerics)) json["numerics"][knob] = value;
  json["limits"] = nlohmann::json::array();
  for (const bench::Limits& l : bench.limits())
    json["limits"].push_back({{"threads", l.threads},
                              {"read_gb_per_s", l.read_bytes * 1e-9},
                              {"pairs_gflop_per_s", l.pairs_flops * 1e-9},
                              {"fp32_gflop_per_s", l.fp32_flops * 1e-9}});
  json["cases"] = nlohmann::json::array();
  for (const Outcome& outcome : outcomes) json["cases"].push_back(json_of(outcome, bench.limits()));
  fmt::print("{}\n", json.dump(2));
}

// A case that is done, for who watches: a long run prints its table at the end.
void print_progress(const Outcome& outcome, const std::vector<bench::Limits>& limits) {
  const bench::Case& c = *outcome.bench_case;
  fmt::print(stderr, "{}, {}, {} token(s):", c.title(), c.detail, c.tokens);
  if (outcome.result.failure) {
    fmt::print(stderr, " FAILED: {}\n", *outcome.result.failure);
    return;
  }
  for (const Line& line : lines_of(outcome.result, limits))
    if (line.measurement->cache == bench::Cache::kCold)
      fmt::print(stderr, " {} thread(s) {} us cold, {:.0f} % of {};", line.measurement->threads,
                 microseconds(line.measurement->timing.median), line.share * 100.0, name_of(line.bound));
  fmt::print(stderr, "\n");
}

int run_bench(const Options& options, const Asked& asked) {
  const auto& [device, request, cases, threads] = asked;
  if (options.list) return options.json ? print_list_json(cases) : print_list(cases);
  if (options.errors) return print_projection_errors(request, std::ranges::max(threads), options.json);
  require_memory(cases, device.available_bytes);
  note_threads(std::ranges::max(threads), device);
  fmt::print(stderr, "measuring the limits of the machine, then {} cases\n", cases.size());
  bench::Bench bench(request.setting.target.isa, threads, options.seconds);
  std::vector<Outcome> outcomes;
  for (const bench::Case& c : cases) {
    outcomes.push_back({&c, bench.run(c)});
    print_progress(outcomes.back(), bench.limits());
  }
  bench.measure_limits_again();
  if (options.json) {
    print_json(request, device, bench, outcomes);
  } else {
    print_header(request, device, bench);
    print_table(outcomes, bench.limits());
  }
  return std::ranges::any_of(outcomes, [](const Outcome& o) { return o.result.failure.has_value(); }) ? 1 : 0;
}

}  // namespace

void add_bench(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand(
      "bench", "Time each operation at real dimensions, checked first, beside the limits of the machine");
  const auto options = std::make_shared<Options>();
  verb.add_option("OP", options->operations, "Operations (linear) or cases (linear.q_b); none: all");
  verb.add_option("--shape", options->shape,
                  "Whose dimensions: " + fmt::format("{}", fmt::join(bench::shape_names(), ", ")))
      ->check(given())
      ->capture_default_str();
  CLI::Option& errors =
      *verb.add_flag("--errors", options->errors,
                     "Of indexer_projection: what each of its forms costs in accuracy, and no times");
  verb.add_option("--threads", options->threads, "A number, or all; without: one, and all")->check(given());
  verb.add_option("--tokens", options->tokens,
                  "Tokens of a call, as 1,8,512; without: what each operation meets")
      ->check(given())
      ->excludes(&errors);
  verb.add_option("--numerics", options->numerics, "PRESET[,knob=value...]: serving, fp32, ...")
      ->check(given())
      ->excludes(&errors)
      ->capture_default_str();
  add_activation(verb, options->activation, options->numerics);
  verb.add_option("--impl", options->implementation,
                  "This implementation, not the one that a plan would choose")
      ->check(given())
      ->excludes(&errors);
  verb.add_option("--isa", options->isa, "Instruction set; without: the machine's best")->check(given());
  verb.add_option("--seconds", options->seconds, "Time of a measurement, in 5 repeats at least")
      ->transform(number(0.0, 3600.0))
      ->excludes(&errors)
      ->capture_default_str();
  verb.add_flag("--json", options->json, "Print the result, or the list, as JSON");
  verb.add_flag("--list", options->list, "Print the cases and run none")->excludes(&errors);
  verb.callback([options, &run] {
    run = [options, asked = understood(*options)] { return run_bench(*options, *asked); };
  });
}

}  // namespace fulgurite::tool
