// fulgurite convert: the same model in another form of the checkpoint.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tool/encoding_report.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string out, form;
  int64_t shard_bytes = model::ConvertOptions{}.shard_bytes;
  bool json = false;
};

void print_table(const std::vector<model::Requantized>& all) {
  std::vector<EncodedWeight> weights;
  for (const model::Requantized& weight : all)
    weights.push_back({{printable(weight.name), weight.from, weight.to}, weight.error});
  const auto lossy = std::ranges::count_if(all, [](const auto& weight) { return weight.error.any(); });
  fmt::print("{}{} weights encoded anew, {} of them exactly\n",
             error_table({{"weight"}, {"from"}, {"to"}}, std::move(weights)), all.size(),
             std::ssize(all) - lossy);
}

void print_json(const Options& options, const model::ConvertResult& result) {
  nlohmann::ordered_json json{{"form", options.form},
                              {"bytes", result.bytes},
                              {"tensors", result.tensors},
                              {"shards", result.shards},
                              {"copied_bytes", result.copied_bytes},
                              {"requantized", nlohmann::json::array()}};
  for (const model::Requantized& weight : result.requantized) {
    nlohmann::ordered_json entry{{"name", weight.name}, {"from", weight.from}, {"to", weight.to}};
    add_error(entry, weight.error);
    json["requantized"].push_back(std::move(entry));
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
