// fulgurite audit: is the plan right, how far off is it, and what does a numeric choice cost?

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "tool/audit_html.h"
#include "tool/audit_json.h"
#include "tool/audit_report.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/token_stream.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string text, json, html, what_if;
  int64_t context = 1024;
  int64_t judged = 8;
};

// The first tokens of the text, and the one that follows them.
std::vector<int32_t> tokens_of(const Options& options, const LoadedModel& loaded) {
  const std::string what = checkpoint::printable_path(options.text);
  std::vector<int32_t> ids =
      token_stream(read_text(options.text), what, load_tokenizer(loaded), loaded.model.config);
  if (options.context > loaded.model.config.max_positions)
    fail(ErrorKind::kRequest, "--context: {} tokens, the model's maximum is {}", options.context,
         loaded.model.config.max_positions);
  if (static_cast<int64_t>(ids.size()) <= options.context)
    fail(ErrorKind::kRequest, "{}: expected more than {} tokens (--context), found {}", what, options.context,
         ids.size());
  ids.resize(static_cast<size_t>(options.context) + 1);
  return ids;
}

// Before the run, not after it.
void require_writable(const std::string& path) {
  if (!path.empty() && !std::ofstream(path, std::ios::app))
    fail(ErrorKind::kFile, "{}: cannot be written", checkpoint::printable_path(path));
}

void write(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
  if (!file.flush())
    fail(ErrorKind::kFile, "{}: not everything could be written", checkpoint::printable_path(path));
}

void show_progress(std::string_view what, double share) {
  static const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal) fmt::print(stderr, "\r{:<40} {:3.0f} % ", what.substr(0, 40), 100.0 * share);
  if (terminal && share >= 1.0) fmt::print(stderr, "\r{:50}\r", "");
}

// What was asked, and what was found, where --json and --html say; `page` is what the terminal has.
void write_reports(const Options& options, const nlohmann::ordered_json& found, const std::string& page,
                   double seconds) {
  const Device device = device_for(options.model);
  nlohmann::ordered_json json{{"version", FULGURITE_VERSION},
                              {"model", options.model.directory},
                              {"text", options.text},
                              {"tokens", options.context},
                              {"device", fmt::format("{}, {} threads", name(device.target), device.threads)},
                              {"numerics", summary(numerics_of(options.model))},
                              {"seconds", seconds}};
  for (const auto& [knob, value] : describe(numerics_of(options.model))) json["knobs"][knob] = value;
  json.update(found);
  if (!options.json.empty()) write(options.json, json.dump(2) + "\n");
  if (!options.html.empty()) write(options.html, audit_html(std::move(json), page));
}

int audit_plan(const Options& options, const LoadedModel& loaded, const std::vector<int32_t>& ids) {
  const double start = seconds_since_start();
  const audit::AuditReport report =
      audit::run_audit(loaded.model, device_for(options.model), plan_options(options.model, {}), ids,
                       {options.judged, true}, [](double share) { show_progress("audit", share); });
  const double seconds = seconds_since_start() - start;
  const std::string page = fmt::format("numerics {}\n{}{:.1f} s\n", summary(numerics_of(options.model)),
                                       audit_page(report), seconds);
  write_reports(options, audit_json(report), page, seconds);
  fmt::print("{}", page);
  return report.within() ? 0 : 1;
}

std::vector<audit::KnownChoice> choices_of(const Options& options, const model::Config& config) {
  if (options.what_if == "all") return audit::choices_for(config);
  const std::string_view source = audit::source_of(options.what_if);
  return {{"as asked", options.what_if, source.empty() ? "no public report is known here" : source}};
}

int audit_choices(const Options& options, const LoadedModel& loaded, const std::vector<int32_t>& ids) {
  const std::vector<audit::KnownChoice> choices = choices_of(options, loaded.model.config);
  // A knob that is none is known before anything runs.
  for (const audit::KnownChoice& choice : choices)
    if (!choice.knobs.empty()) audit::changed(numerics_of(options.model), choice.knobs);
  const double start = seconds_since_start();
  const audit::WhatIfAudit audit(loaded.model, device_for(options.model), plan_options(options.model, {}),
                                 ids);
  std::vector<audit::WhatIf> results;
  for (const audit::KnownChoice& choice : choices) {
    show_progress(choice.what, static_cast<double>(results.size()) / static_cast<double>(choices.size()));
    results.push_back(audit.run(choice));
  }
  show_progress("", 1.0);
  std::string page = fmt::format("numerics {}, {} tokens\n{}", summary(numerics_of(options.model)),
                                 options.context, what_if_page(audit.noise(), results));
  for (const audit::WhatIf& result : results)
    if (!result.refusal.empty() && !result.choice.knobs.empty())
      page += fmt::format("refused: {}: {}\n", result.choice.knobs, result.refusal);
  write_reports(options, what_if_json(audit.noise(), results), page, seconds_since_start() - start);
  fmt::print("{}", page);
  return 0;
}

int run_audit_verb(Options options) {
  const LoadedModel loaded = load(options.model);
  options.model = with_profile(options.model, loaded.model.config);
  for (const std::string& path : {options.json, options.html}) require_writable(path);
  const std::vector<int32_t> ids = tokens_of(options, loaded);
  return options.what_if.empty() ? audit_plan(options, loaded, ids) : audit_choices(options, loaded, ids);
}

}  // namespace

void add_audit(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand(
      "audit", "Hold the plan against the references on a text, operation by operation and as a whole");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("--text", options->text, "A UTF-8 file; lines <|doc|> separate documents")->required();
  verb.add_option("--context", options->context, "So many tokens from the beginning of the text")
      ->transform(integer(2, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--judged", options->judged,
                  "Tokens of each pass of 128 that are held against derived bounds; statistics are of all")
      ->transform(integer(1, 128))
      ->capture_default_str();
  verb.add_option("--what-if", options->what_if,
                  "KNOB=VALUE[,...]: what these numeric choices cost, against --numerics; all: every choice "
                  "that public reports speak of")
      ->check(given());
  verb.add_option("--json", options->json, "Write everything to this file as JSON")->check(given());
  verb.add_option("--html", options->html, "Write a page with plots to this file; it needs nothing else")
      ->check(given());
  add_execution(verb, options->model);
  add_profile(verb, options->model);
  verb.callback([options, &run] { run = [options] { return run_audit_verb(*options); }; });
}

}  // namespace fulgurite::tool
