// fulgurite synth: a checkpoint with the real dimensions of a config.json and seeded weights.

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>

#include "fulgurite/cpu/thread_pool.h"
#include "fulgurite/model/synthesize.h"
#include "tool/model_options.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  std::string config;
  std::string out;
  int64_t layers = 1;
  int64_t dense = -1;  // -1: not given
  uint64_t seed = 0;
  int threads = 0;
};

// A line every ten seconds; on a terminal ten a second, over one another.
class Progress {
 public:
  explicit Progress(int64_t bytes) : bytes_(bytes), terminal_(isatty(STDERR_FILENO) != 0) {}

  void operator()(int64_t written) {
    const double now = seconds_since_start();
    if (written < bytes_ && now - last_ < (terminal_ ? 0.1 : 10.0)) return;
    last_ = now;
    fmt::print(stderr, "{}written {} of {}{}", terminal_ ? "\r\033[K" : "", plan::human_bytes(written),
               plan::human_bytes(bytes_), terminal_ && written < bytes_ ? "" : "\n");
    std::fflush(stderr);
  }

 private:
  int64_t bytes_;
  bool terminal_;
  double last_ = seconds_since_start();
};

int run_synth(const Options& options) {
  model::SynthesisOptions synthesis;
  synthesis.layers = options.layers;
  if (options.dense >= 0) synthesis.dense_layers = options.dense;
  synthesis.seed = options.seed;
  const model::Synthesis plan =
      model::plan_synthesis(read_text(options.config), printable(options.config), synthesis);
  fmt::print(stderr, "{}: {} bytes ({}) in {} shard(s)\n", printable(options.out), plan.bytes,
             plan::human_bytes(plan.bytes), plan.shards.size());
  ModelOptions device;
  device.threads = options.threads;
  cpu::ThreadPool workers(device_for(device).threads);
  Progress progress(plan.bytes);
  model::write_synthesis(plan, options.out, &workers, [&](int64_t written) { progress(written); });
  return 0;
}

}  // namespace

void add_synth(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand(
      "synth",
      "Write a checkpoint of the dimensions of a config.json with seeded weights of realistic scale");
  const auto options = std::make_shared<Options>();
  verb.add_option("CONFIG", options->config, "A config.json (models/configs has those of published models)")
      ->required()
      ->option_text("FILE");
  verb.add_option("--layers", options->layers, "Layers to write")
      ->required()
      ->check(kGiven)
      ->check(CLI::Range(int64_t{1}, int64_t{1024}));
  verb.add_option("--out", options->out, "The directory: made, or empty")->required();
  verb.add_option(
          "--dense", options->dense,
          "Of them, dense ones at the front; otherwise min(first_k_dense_replace, layers - 1), so that "
          "the last layer has experts")
      ->check(kGiven)
      ->check(CLI::Range(int64_t{0}, int64_t{1024}));
  verb.add_option("--seed", options->seed, "The same seed gives the same bytes")
      ->check(kGiven)
      ->capture_default_str();
  verb.add_option("--threads", options->threads, "Threads; 0: every processor that may be used")
      ->check(kGiven)
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  verb.callback([options, &run] { run = [options] { return run_synth(*options); }; });
}

}  // namespace fulgurite::tool
