// fulgurite trace: named tensors of a forward pass, for comparison with another engine or another plan.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/verbs.h"
#include "tool/verify_plan.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string ids, out, inject, inject_prefix;
  std::vector<std::string> inject_only;
  int64_t last = 0;
  int64_t chunk = 0;
  bool verify_plan = false;
};

// A new file, or an old one that is neither an input nor a device: known before hours of work, not after.
void require_writable(const Options& options) {
  namespace fs = std::filesystem;
  const fs::path out = options.out;
  const std::string directory = out.parent_path().empty() ? "." : out.parent_path().string();
  if (out.filename().empty() || !fs::is_directory(directory) || access(directory.c_str(), W_OK) != 0 ||
      (fs::exists(out) && !fs::is_regular_file(out)))
    fail(ErrorKind::kRequest, "--out: expected a file in a directory that can be written, found \"{}\"",
         printable(options.out, 80));
  if (!fs::exists(out)) return;
  const auto refuse_if_same = [&](const fs::path& input) {
    if (fs::exists(input) && fs::equivalent(out, input))
      fail(ErrorKind::kRequest, "--out: {} is an input of this run", printable(options.out));
  };
  refuse_if_same(options.ids.substr(0, options.ids.rfind(':')));
  refuse_if_same(options.inject);
  for (const auto& entry : fs::directory_iterator(options.model.directory)) refuse_if_same(entry.path());
}

audit::Injection read_injection(const Options& options, const model::Config& config, int64_t positions) {
  if (options.inject.empty()) return {};
  audit::Injection injection(checkpoint::SafetensorsFile::open(options.inject), options.inject_prefix,
                             options.inject_only, config, positions);
  fmt::print(stderr, "injecting {}\n", fmt::join(injection.names(), ", "));
  return injection;
}

std::vector<plan::Pass> passes_of(int64_t positions, int64_t chunk, const audit::Injection& injection) {
  std::vector<plan::Pass> passes = plan::chunked(positions, chunk);
  int64_t begin = 0;
  for (plan::Pass& pass : passes) {
    pass.splits = injection.splits(begin, pass.tokens);
    begin += pass.tokens;
  }
  return passes;
}

int run_trace(const Options& options) {
  const LoadedModel loaded = load(options.model);
  require_writable(options);
  const std::vector<int32_t> ids = read_ids(options.ids);
  const auto positions = static_cast<int64_t>(ids.size());
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || ids[i] >= loaded.model.config.vocabulary)
      fail(ErrorKind::kRequest, "{}: position {}: token id {} is outside the vocabulary of {}",
           printable(options.ids), i, ids[i], loaded.model.config.vocabulary);
  if (positions > loaded.model.config.max_positions)
    fail(ErrorKind::kRequest, "{}: {} token ids, the model's maximum is {}", printable(options.ids),
         positions, loaded.model.config.max_positions);
  const int64_t last = options.last > 0 ? options.last : positions;
  if (last > positions)
    fail(ErrorKind::kRequest, "--last: expected at most the {} positions of --ids, found {}", positions,
         last);
  plan::Options plan_options;
  plan_options.context = positions;
  plan_options.chunk_tokens = options.chunk > 0 ? std::min(options.chunk, positions) : positions;
  plan_options.logits = plan::LogitRows::kAll;
  plan_options.tracing = plan::Tracing::kOn;
  execute::Session session(loaded.model, make_plan(loaded, options.model, plan_options));
  audit::Injection injection = read_injection(options, loaded.model.config, positions);
  const std::vector<plan::Pass> passes = passes_of(positions, plan_options.chunk_tokens, injection);
  audit::Trace trace(0, positions, last, std::move(injection));
  const auto chunk = static_cast<size_t>(plan_options.chunk_tokens);
  for (size_t at = 0; at < ids.size(); at += chunk)
    session.forward(0, std::span(ids).subspan(at, std::min(chunk, ids.size() - at)), &trace);
  trace.write(options.out);
  fmt::print(stderr, "{}: the last {} of {} positions\n", printable(options.out), last, positions);
  if (!options.verify_plan) return 0;
  const Verification verification = verify(session.plan(), passes, session.counts());
  fmt::print(stderr, "{}", verification.text);
  return verification.exit_code();
}

}  // namespace

void add_trace(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand("trace", "Run token ids and write the inner tensors of every layer");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("--ids", options->ids, "FILE.safetensors:TENSOR, I32 [tokens]")
      ->required()
      ->check(file_and_tensor());
  verb.add_option("--out", options->out, "The file to write")->required()->check(given());
  verb.add_option("--last", options->last, "Positions to write, from the end; 0: all")
      ->transform(integer(0, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--chunk", options->chunk,
                  "Prefill in chunks of so many tokens; 1 is decode, 0 all at once")
      ->transform(integer(0, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--inject", options->inject,
                  "A file whose layerL.topk, layerL.attn_out and layerL.hidden replace what is computed, for "
                  "their last positions");
  verb.add_option("--inject-prefix", options->inject_prefix, "Take the tensors with this prefix, without it")
      ->needs("--inject");
  verb.add_option("--inject-only", options->inject_only, "Take these kinds only: topk, attn_out, hidden")
      ->delimiter(',')
      ->check(CLI::IsMember({"topk", "attn_out", "hidden"}))
      ->needs("--inject");
  add_execution(verb, options->model);
  verb.add_flag("--verify-plan", options->verify_plan, kVerifyPlanHelp);
  verb.callback([options, &run] { run = [options] { return run_trace(*options); }; });
}

}  // namespace fulgurite::tool
