// fulgurite convert: the same model in another form of the checkpoint.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include "tool/model_options.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string out, form;
  int64_t shard_bytes = model::ConvertOptions{}.shard_bytes;
};

// One line on a terminal, written over at most a few times a second.
class Progress {
 public:
  void operator()(int64_t done, int64_t total) {
    const double now = seconds_since_start();
    if (isatty(STDERR_FILENO) == 0 || (now - shown_ < 0.2 && done < total)) return;
    shown_ = now;
    fmt::print(stderr, "\r{} of {}, {:.0f} s ", plan::human_bytes(done), plan::human_bytes(total), now);
    if (done == total) fmt::print(stderr, "\n");
  }

 private:
  double shown_ = -1.0;
};

int run_convert(const Options& options) {
  const checkpoint::Checkpoint source = checkpoint::open(options.model.directory);
  model::ConvertOptions convert;
  convert.form = *model::form_from_name(options.form);
  convert.shard_bytes = options.shard_bytes;
  Progress progress;
  convert.progress = [&](int64_t done, int64_t total) { progress(done, total); };
  const model::ConvertResult result = model::convert(source, options.out, convert);
  fmt::print(stderr, "{}: {}, {} in {} tensors, {} shard(s); {} copied as they were\n",
             printable(options.out), options.form, plan::human_bytes(result.bytes), result.tensors,
             result.shards, plan::human_bytes(result.copied_bytes));
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("convert", "Write a checkpoint anew in another form of the same model");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("OUT", options->out, "Directory to write; must not exist")->required()->check(kGiven);
  verb.add_option("--form", options->form, fmt::format("One of {}", fmt::join(model::form_names(), ", ")))
      ->required()
      ->check([](const std::string& name) {
        return model::form_from_name(name) ? std::string()
                                           : fmt::format("expected one of {}, found \"{}\"",
                                                         fmt::join(model::form_names(), ", "), name);
      });
  verb.add_option("--shard-size", options->shard_bytes,
                  "Bytes of tensors in a file, as 5000000000, 5GB or 512MB")
      ->transform(CLI::AsSizeValue(true))
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 50))
      ->capture_default_str();
  verb.callback([options, &run] { run = [options] { return run_convert(*options); }; });
}

}  // namespace fulgurite::tool
