// fulgurite synth: a checkpoint with the real dimensions of a config.json and seeded weights.

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdio>

#include "fulgurite/cpu/thread_pool.h"
#include "fulgurite/model/synthesize.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
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

// SIGINT and SIGTERM, while this object lives, end the writing between two chunks of bytes.
volatile std::sig_atomic_t g_signal = 0;
struct Interrupted {};

class Interruptible {
 public:
  Interruptible() {
    for (size_t i = 0; i < kSignals.size(); ++i) {
      before_[i] = std::signal(kSignals[i], [](int number) { g_signal = number; });
      if (before_[i] == SIG_IGN) std::signal(kSignals[i], SIG_IGN);  // what nohup asked for
    }
  }
  Interruptible(const Interruptible&) = delete;
  Interruptible& operator=(const Interruptible&) = delete;
  ~Interruptible() {
    for (size_t i = 0; i < kSignals.size(); ++i) std::signal(kSignals[i], before_[i]);
  }
  static void check() {
    if (g_signal != 0) throw Interrupted{};
  }

 private:
  static constexpr std::array kSignals{SIGINT, SIGTERM};
  std::array<void (*)(int), kSignals.size()> before_{};
};

void write(const model::Synthesis& plan, const Options& options) {
  ModelOptions device;
  device.threads = options.threads;
  cpu::ThreadPool workers(device_for(device).threads);
  Progress progress(plan.bytes);
  const Interruptible interruptible;
  model::write_synthesis(plan, options.out, &workers, [&](int64_t written) {
    Interruptible::check();
    progress(written);
  });
}

int run_synth(const Options& options) {
  model::SynthesisOptions synthesis;
  synthesis.layers = options.layers;
  if (options.dense >= 0) synthesis.dense_layers = options.dense;
  synthesis.seed = options.seed;
  const model::Synthesis plan =
      model::plan_synthesis(read_text(options.config), printable(options.config), synthesis);
  fmt::print(stderr, "{}: {} bytes ({}) in {} shard(s)\n", printable(options.out), plan.bytes,
             plan::human_bytes(plan.bytes), plan.shards.size());
  try {
    write(plan, options);
  } catch (const Interrupted&) {
    std::raise(g_signal);  // what was written is gone; the end is what the sender meant
  }
  return 0;
}

void require_consistent(const Options& options) {
  if (options.dense > options.layers)
    throw CLI::ValidationError("--dense", fmt::format("expected at most the {} of --layers, found {}",
                                                      options.layers, options.dense));
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
  verb.add_option("--layers", options->layers, "Layers to write")->required()->transform(integer(1, 1024));
  verb.add_option("--out", options->out, "The directory: made, or empty")->required()->check(given());
  verb.add_option(
          "--dense", options->dense,
          "Of them, dense ones at the front; otherwise min(first_k_dense_replace, layers - 1), so that "
          "the last layer has experts")
      ->transform(integer(0, 1024));
  verb.add_option("--seed", options->seed, "The same seed gives the same bytes")
      ->transform(seed())
      ->capture_default_str();
  verb.add_option("--threads", options->threads, "Threads; 0: every processor that may be used")
      ->transform(integer(0, kMostThreads))
      ->capture_default_str();
  verb.callback([options, &run] {
    require_consistent(*options);
    run = [options] { return run_synth(*options); };
  });
}

}  // namespace fulgurite::tool
