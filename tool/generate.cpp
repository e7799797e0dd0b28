// fulgurite generate: a prompt goes on, token by token.

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "fulgurite/core/utf8.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/verbs.h"
#include "tool/verify_plan.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string prompt, prompt_file;
  int64_t new_tokens = 128;
  int64_t context = 0;
  execute::SamplerOptions sampler;
  bool greedy = false;
  bool json = false;
  bool verify_plan = false;
};

struct Result {
  std::vector<int32_t> prompt_ids, ids;
  std::string text;
  double prefill_seconds = 0.0, decode_seconds = 0.0;
  const char* stopped = "max-new-tokens";
  int64_t planned_bytes = 0;
  int64_t resident_bytes = 0;  // anonymous, while the session lives
  std::optional<Verification> verification;

  double prefill_speed() const {
    return static_cast<double>(prompt_ids.size()) / std::max(prefill_seconds, 1e-9);
  }
  // The first new token comes out of the prefill.
  double decode_speed() const {
    return static_cast<double>(ids.empty() ? 0 : ids.size() - 1) / std::max(decode_seconds, 1e-9);
  }
};

std::vector<int32_t> prompt_ids(const Options& options, const Tokenizer& tokenizer,
                                const model::Config& config) {
  const std::string text = options.prompt_file.empty() ? options.prompt : read_text(options.prompt_file);
  const std::string source =
      options.prompt_file.empty() ? "prompt" : checkpoint::printable_path(options.prompt_file);
  if (text.empty()) fail(ErrorKind::kRequest, "{}: expected text, found none", source);
  require_utf8(text, source);
  std::vector<int32_t> ids;
  if (config.bos) ids.push_back(*config.bos);
  const std::vector<int32_t> encoded = tokenizer.encode(text);
  ids.insert(ids.end(), encoded.begin(), encoded.end());
  return ids;
}

// --context, or what the prompt and the new tokens need of the model's context.
int64_t context_for(const Options& options, int64_t prompt, const model::Config& config) {
  const int64_t context =
      options.context > 0 ? options.context : std::min(config.max_positions, prompt + options.new_tokens);
  if (prompt > std::min(context, config.max_positions))
    fail(ErrorKind::kRequest, "prompt: {} tokens do not fit a context of {} (the model's maximum is {})",
         prompt, context, config.max_positions);
  return context;
}

// The first new token. The passes are appended to `passes`.
int32_t prefill(execute::Session& session, std::span<const int32_t> ids, execute::Sampler& sampler,
                std::vector<plan::Pass>& passes) {
  passes = plan::chunked(std::ssize(ids), session.plan().options.chunk_tokens);
  passes.back().chooses = true;
  int32_t id = -1;
  for (const plan::Pass& pass : passes) {
    const auto count = static_cast<size_t>(pass.tokens);
    id = session.next_token(0, ids.first(count), pass.chooses ? &sampler : nullptr);
    ids = ids.subspan(count);
  }
  return id;
}

// From the first new token on; passes are added to `passes`.
void decode(execute::Session& session, int32_t id, const Options& options, execute::Sampler& sampler,
            const Tokenizer& tokenizer, Result& result, std::vector<plan::Pass>& passes) {
  const model::Config& config = session.plan().config;
  TextStream stream(tokenizer);
  const auto print = [&](const std::string& text) {
    result.text += text;
    if (options.json) return;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  };
  while (static_cast<int64_t>(result.ids.size()) < options.new_tokens) {
    if (std::ranges::find(config.eos, id) != config.eos.end()) {
      result.stopped = "end of text";
      break;
    }
    result.ids.push_back(id);
    print(id < tokenizer.vocabulary() ? stream.push(id) : std::string());
    if (static_cast<int64_t>(result.ids.size()) == options.new_tokens) break;
    if (session.length(0) == session.plan().options.context) {
      result.stopped = "context full";
      break;
    }
    id = session.next_token(0, {&id, 1}, &sampler);
    passes.push_back({1, 1, {}, true});
  }
  print(stream.finish());
}

Result generate(const Options& options) {
  const LoadedModel loaded = load(options.model);
  const Tokenizer tokenizer = load_tokenizer(loaded);
  Result result;
  result.prompt_ids = prompt_ids(options, tokenizer, loaded.model.config);
  const auto prompt = static_cast<int64_t>(result.prompt_ids.size());
  execute::Sampler sampler(options.sampler, loaded.model.config.vocabulary);
  plan::Options plan_options;
  plan_options.context = context_for(options, prompt, loaded.model.config);
  plan_options.chunk_tokens = std::min<int64_t>(prompt, 256);
  if (options.verify_plan)
    plan_options.passes = plan::Passes::kEager;  // a recorded pass counts its padding too
  execute::Session session(loaded.model, make_plan(loaded, options.model, plan_options));
  note_references(session.plan());
  result.planned_bytes = session.plan().bytes.owned();
  if (!options.json) fmt::print("{}", options.prompt_file.empty() ? options.prompt : "");
  const double start = seconds_since_start();
  std::vector<plan::Pass> passes;
  const int32_t first = prefill(session, result.prompt_ids, sampler, passes);
  const double prefilled = seconds_since_start();
  decode(session, first, options, sampler, tokenizer, result, passes);
  result.prefill_seconds = prefilled - start;
  result.decode_seconds = seconds_since_start() - prefilled;
  result.resident_bytes = cpu::anonymous_resident_bytes();
  if (options.verify_plan) result.verification = verify(session.plan(), passes, session.counts());
  return result;
}

void print_json(const Result& result) {
  nlohmann::ordered_json json{
      {"prompt_ids", result.prompt_ids},
      {"ids", result.ids},
      {"text", result.text},
      {"stopped", result.stopped},
      {"prefill_tokens_per_second", result.prefill_speed()},
      {"decode_tokens_per_second", result.decode_speed()},
      {"planned_bytes", result.planned_bytes},
      {"anonymous_resident_bytes", result.resident_bytes},
  };
  if (result.verification) json["verify_plan"] = result.verification->json;
  fmt::print("{}\n", json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace));
}

void print_speed(const Result& result) {
  fmt::print("\n");
  std::fflush(stdout);
  fmt::print(stderr,
             "\n[prefill {:.0f} tokens/s ({} tokens), decode {:.0f} tokens/s ({} tokens); stopped: {}]\n",
             result.prefill_speed(), result.prompt_ids.size(), result.decode_speed(), result.ids.size(),
             result.stopped);
}

int run_generate(Options options) {
  if (options.greedy) options.sampler.temperature = 0.0;
  const Result result = generate(options);
  if (options.json)
    print_json(result);
  else
    print_speed(result);
  if (!result.verification) return 0;
  fmt::print(stderr, "{}", result.verification->text);
  return result.verification->exit_code();
}

}  // namespace

void add_generate(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand("generate", "Continue a prompt; text on stdout, speed on stderr");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  CLI::Option_group& source =
      *verb.add_option_group("prompt", "The text to continue, given here or in a file");
  source.add_option("--prompt", options->prompt, "The text to continue");
  source.add_option("--prompt-file", options->prompt_file, "A UTF-8 file with the text to continue");
  source.require_option(1);
  verb.add_option("--max-new-tokens", options->new_tokens, "Stop after so many tokens")
      ->transform(integer(1, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--context", options->context,
                  "Positions to plan for; 0: prompt and new tokens, at most the model's")
      ->transform(integer(0, int64_t{1} << 40))
      ->capture_default_str();
  verb.add_option("--temperature", options->sampler.temperature, "Divides the logits; 0 is --greedy")
      ->transform(number(0.0, 100.0))
      ->capture_default_str();
  verb.add_option("--top-p", options->sampler.top_p,
                  "Sample from the most probable tokens that hold this much; 1: all")
      ->transform(number(0.0, 1.0, Low::kExcluded))
      ->capture_default_str();
  verb.add_option("--top-k", options->sampler.top_k, "Sample from so many most probable tokens; 0: all")
      ->transform(integer(0, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--seed", options->sampler.seed, "The same seed gives the same text")
      ->transform(seed())
      ->capture_default_str();
  verb.add_flag("--greedy", options->greedy, "Always the most probable token");
  verb.add_flag("--json", options->json, "Print ids, text, speed and memory as JSON, when done");
  add_execution(verb, options->model);
  verb.add_flag("--verify-plan", options->verify_plan, kVerifyPlanHelp);
  verb.callback([options, &run] { run = [options] { return run_generate(*options); }; });
}

}  // namespace fulgurite::tool
