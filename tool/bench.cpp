// fulgurite bench: every operation at real dimensions, judged against its reference and then timed, beside
// what the machine can do at most.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "bench/gpu_limits.h"
#include "fulgurite/core/error.h"
#include "fulgurite/cpu/machine.h"
#include "fulgurite/cuda/device.h"
#include "fulgurite/plan/bytes.h"
#include "tool/bench_report.h"
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
  std::string device = "cpu";
  double seconds = 0.5;
  double longest = bench::Replays{}.longest;
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
  request.setting = {device.target, parse_numerics(options.numerics)};
  if (device.accelerator == nullptr) request.setting.target.isa = isa_named(options.isa, device.target.isa);
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
  const bool gpu = options.device == "cuda";
  if (gpu && (options.errors || !options.threads.empty() || !options.isa.empty()))
    throw CLI::ValidationError("--device cuda: has no --threads, --isa or --errors");
  if (options.errors && options.operations != std::vector<std::string>{"indexer_projection"})
    throw CLI::ValidationError("--errors: expected OP indexer_projection alone");
  try {
    asked->device = gpu ? cuda::device() : cpu::machine();
    asked->request = request_of(options, asked->device);
    asked->cases = bench::cases_of(asked->request, options.operations);
    asked->threads = thread_counts(options.threads, asked->device.threads);
  } catch (const Error& error) {
    throw CLI::ValidationError(error.what());
  }
  return asked;
}

// Before anything runs: the largest case and what the clock itself needs.
void require_memory(const std::vector<bench::Case>& cases, int64_t own, int64_t available) {
  for (const bench::Case& c : cases) {
    const int64_t needed = c.memory_bytes + own;
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

std::unique_ptr<bench::Bench> make_bench(const Options& options, const Asked& asked) {
  const auto& [device, request, cases, threads] = asked;
  if (on_gpu(request))
    return std::make_unique<bench::GpuBench>(
        device, bench::Replays{.seconds = options.seconds, .longest = options.longest},
        &bench::measure_gpu_limits);
  require_memory(cases, bench::CpuBench::own_bytes(), device.available_bytes);
  note_threads(std::ranges::max(threads), device);
  return std::make_unique<bench::CpuBench>(request.setting.target.isa, threads, options.seconds);
}

int run_bench(const Options& options, const Asked& asked) {
  const auto& [device, request, cases, threads] = asked;
  if (options.list) return options.json ? print_list_json(cases) : print_list(cases);
  if (options.errors) return print_projection_errors(request, std::ranges::max(threads), options.json);
  fmt::print(stderr, "measuring the limits of the machine, then {} cases\n", cases.size());
  const std::unique_ptr<bench::Bench> bench = make_bench(options, asked);
  std::vector<Outcome> outcomes;
  for (const bench::Case& c : cases) {
    outcomes.push_back({&c, bench->run(c)});
    print_progress(outcomes.back(), bench->limits(), on_gpu(request));
  }
  bench->measure_limits_again();
  if (options.json) {
    print_json(request, device, *bench, outcomes);
  } else {
    print_tables(request, device, *bench, outcomes);
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
  verb.add_option("--device", options->device, "cpu, or cuda, the first GPU: calls captured and replayed")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  verb.add_option("--longest", options->longest,
                  "Seconds that a call on a GPU may take; longer ones are skipped")
      ->transform(number(0.0, 3600.0))
      ->capture_default_str();
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
