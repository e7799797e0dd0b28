// fulgurite convert: the same model in another form of the checkpoint.

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/table.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string out, form;
  int64_t shard_bytes = model::ConvertOptions{}.shard_bytes;
  bool json = false;
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

constexpr size_t kMostRows = 20;  // of the table; --json has every weight

// What lost something, worst first.
std::vector<const model::Requantized*> inexact(const std::vector<model::Requantized>& all) {
  std::vector<const model::Requantized*> some;
  for (const model::Requantized& weight : all)
    if (weight.error.any()) some.push_back(&weight);
  const auto rank = [](const model::Requantized* weight) {
    return std::isnan(weight->error.relative) ? INFINITY : weight->error.relative;
  };
  std::ranges::stable_sort(some, std::ranges::greater(), rank);
  return some;
}

void print_table(const std::vector<model::Requantized>& all) {
  const std::vector<const model::Requantized*> some = inexact(all);
  if (!some.empty()) {
    Table table({{"weight"},
                 {"from"},
                 {"to"},
                 {"relative error", Align::kRight},
                 {"worst block", Align::kRight},
                 {"at"},
                 {"saturated", Align::kRight},
                 {"flushed", Align::kRight}});
    for (size_t i = 0; i < std::min(some.size(), kMostRows); ++i) {
      const model::Requantized& weight = *some[i];
      const EncodingError& e = weight.error;
      table.add({printable(weight.name), weight.from, weight.to, fmt::format("{:.3e}", e.relative),
                 fmt::format("{:.3e}", e.worst_block), fmt::format("[{}, {}]", e.worst_row, e.worst_column),
                 fmt::format("{}", e.saturated), fmt::format("{}", e.flushed)});
    }
    if (some.size() > kMostRows) table.note(fmt::format("{} more: --json has all", some.size() - kMostRows));
    fmt::print("{}", table.text());
  }
  fmt::print("{} weights encoded anew, {} of them exactly\n", all.size(), all.size() - some.size());
}

void print_json(const Options& options, const model::ConvertResult& result) {
  nlohmann::ordered_json json{{"form", options.form},
                              {"bytes", result.bytes},
                              {"tensors", result.tensors},
                              {"shards", result.shards},
                              {"copied_bytes", result.copied_bytes},
                              {"requantized", nlohmann::json::array()}};
  for (const model::Requantized& weight : result.requantized) {
    const EncodingError& e = weight.error;
    json["requantized"].push_back(
        {{"name", weight.name},
         {"from", weight.from},
         {"to", weight.to},
         {"relative_error", e.relative},
         {"worst_block",
          {{"relative_error", e.worst_block}, {"row", e.worst_row}, {"column", e.worst_column}}},
         {"saturated", e.saturated},
         {"flushed", e.flushed}});
  }
  fmt::print("{}\n", json.dump(2));
}

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
  if (options.json)
    print_json(options, result);
  else
    print_table(result.requantized);
  return 0;
}

}  // namespace

void add_convert(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("convert", "Write a checkpoint anew in another form of the same model");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("OUT", options->out, "Directory to write; must not exist")->required()->check(given());
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
  verb.add_flag("--json", options->json, "The report of each weight that was encoded anew, as JSON");
  verb.callback([options, &run] { run = [options] { return run_convert(*options); }; });
}

}  // namespace fulgurite::tool
