// fulgurite bisect: which stage of another engine's dump went wrong first, and which choice explains it?

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <fstream>

#include "tool/bisect_report.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string dump, map, prefix, ids, text, json;
  bool no_search = false;
};

void show_progress(double share) {
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal) fmt::print(stderr, "\rbisect {:3.0f} % ", 100.0 * share);
  if (terminal && share >= 1.0) fmt::print(stderr, "\r{:20}\r", "");
}

// The prompt, where the dump does not say it.
std::vector<int32_t> given_ids(const Options& options, const LoadedModel& loaded) {
  if (!options.ids.empty()) return read_ids(options.ids);
  if (options.text.empty()) return {};
  std::vector<int32_t> ids;
  if (loaded.model.config.bos) ids.push_back(*loaded.model.config.bos);
  const std::vector<int32_t> encoded = load_tokenizer(loaded).encode(read_text(options.text));
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  return ids;
}

void write(const std::string& path, const nlohmann::ordered_json& json) {
  if (path.empty()) return;
  std::ofstream file(path, std::ios::trunc);
  file << json.dump(2) << "\n";
  if (!file.flush())
    fail(ErrorKind::kFile, "{}: not everything could be written", checkpoint::printable_path(path));
}

int run_bisect(Options options) {
  const LoadedModel loaded = load(options.model);
  options.model = with_profile(options.model, loaded.model.config);
  if (!options.json.empty() && !std::ofstream(options.json, std::ios::app))
    fail(ErrorKind::kFile, "{}: cannot be written", checkpoint::printable_path(options.json));
  const model::Config& config = loaded.model.config;
  const audit::DumpMap map =
      options.map.empty() ? audit::DumpMap() : audit::DumpMap::read(options.map, config.layers);
  const audit::Dump dump(checkpoint::TensorFiles::open(options.dump), options.prefix, map, config,
                         given_ids(options, loaded));
  const double start = seconds_since_start();
  const audit::BisectReport report =
      audit::bisect(loaded.model, device_for(options.model), plan_options(options.model, {}), dump,
                    {!options.no_search}, show_progress);
  show_progress(1.0);
  const double seconds = seconds_since_start() - start;
  const std::string numerics = summary(numerics_of(options.model));
  write(options.json, bisect_json(options.model.directory, numerics, seconds, dump, report));
  fmt::print("numerics {}, {} positions\n{}{:.1f} s\n", numerics, dump.positions(), bisect_page(dump, report),
             seconds);
  return report.within() ? 0 : 1;
}

}  // namespace

void add_bisect(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand(
      "bisect",
      "Find the first stage of another engine's dump that went wrong, and the choice that explains it");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option(
          "--dump", options->dump,
          "Named tensors of one pass (docs/formats/dump.md): .safetensors, .npz, .npy, or a directory "
          "of such files")
      ->required()
      ->check(given());
  verb.add_option("--map", options->map,
                  "JSON: how the dump names and lays out the tensors of docs/formats/trace.md")
      ->check(given());
  verb.add_option("--prefix", options->prefix, "What stands before every name of the dump (\"seq0.\")");
  auto* const ids =
      verb.add_option("--ids", options->ids,
                      "FILE.safetensors:TENSOR, I32 [tokens]: the prompt, where the dump has no "
                      "input_ids")
          ->check(file_and_tensor());
  verb.add_option("--text", options->text, "A UTF-8 file: the prompt, as `fulgurite generate` reads it")
      ->check(given())
      ->excludes(ids);
  verb.add_flag("--no-search", options->no_search, "Name the stage alone; try no knobs");
  verb.add_option("--json", options->json, "Write everything to this file as JSON")->check(given());
  add_execution(verb, options->model);
  add_profile(verb, options->model);
  verb.footer(
      "Every stage reads the dump's own inputs, so each is judged alone; its gate is four times the noise, "
      "the\n"
      "distance between two legitimate orders of the same sums, or what the tensor's storage allows.\n"
      "Exit codes: 0 every stage is within its gate, 1 one is not (or the dump cannot be read), 2 usage.");
  verb.callback([options, &run] { run = [options] { return run_bisect(*options); }; });
}

}  // namespace fulgurite::tool
