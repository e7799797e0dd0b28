// fulgurite eval: how probable the model finds a text.

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/table.h"
#include "tool/token_stream.h"
#include "tool/verbs.h"
#include "tool/verify_plan.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  std::string text;
  int64_t window = 1024;
  int64_t windows = 0;
  bool json = false;
  bool verify_plan = false;
};

// -log softmax(logits)[target], in double.
double negative_log_likelihood(View<const float, 1> logits, int32_t target) {
  double largest = logits(0);
  for (int64_t i = 1; i < logits.extent[0]; ++i) largest = std::max<double>(largest, logits(i));
  double sum = 0.0;
  for (int64_t i = 0; i < logits.extent[0]; ++i) sum += std::exp(logits(i) - largest);
  return std::log(sum) + largest - logits(target);
}

// Window i predicts tokens [i * window + 1, (i + 1) * window] from a context that starts at token i * window.
double evaluate_window(execute::Session& session, std::span<const int32_t> stream, int64_t window) {
  session.reset(0);
  double sum = 0.0;
  const int64_t chunk = session.plan().options.chunk_tokens;
  for (int64_t at = 0; at < window; at += chunk) {
    const int64_t count = std::min(chunk, window - at);
    const View<const float, 2> logits =
        session.forward(0, stream.subspan(static_cast<size_t>(at), static_cast<size_t>(count)));
    for (int64_t t = 0; t < count; ++t) {
      const double nll = negative_log_likelihood(logits[t], stream[static_cast<size_t>(at + t + 1)]);
      if (!std::isfinite(nll))
        fail(ErrorKind::kRequest, "logits: token {} of a window has a likelihood of {}", at + t + 1, nll);
      sum += nll;
    }
  }
  return sum / static_cast<double>(window);
}

double mean(const std::vector<double>& values) {
  double sum = 0.0;
  for (const double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

void print_result(const Options& options, const std::vector<double>& nll, double seconds,
                  const std::optional<Verification>& verification) {
  const auto tokens = static_cast<int64_t>(nll.size()) * options.window;
  if (options.json) {
    nlohmann::ordered_json json{{"numerics", summary(numerics_of(options.model))},
                                {"nll", mean(nll)},
                                {"perplexity", std::exp(mean(nll))},
                                {"window", options.window},
                                {"windows", nll},
                                {"tokens", tokens},
                                {"seconds", seconds},
                                {"tokens_per_second", static_cast<double>(tokens) / seconds}};
    if (verification) json["verify_plan"] = verification->json;
    fmt::print("{}\n", json.dump(2));
    return;
  }
  Table table({{"window", Align::kRight}, {"nll", Align::kRight}, {"perplexity", Align::kRight}});
  for (size_t i = 0; i < nll.size(); ++i)
    table.add({fmt::format("{}", i), fmt::format("{:.6f}", nll[i]), fmt::format("{:.3f}", std::exp(nll[i]))});
  table.add({"mean", fmt::format("{:.6f}", mean(nll)), fmt::format("{:.3f}", std::exp(mean(nll)))});
  fmt::print("{}", table.text());
  fmt::print("numerics {}: {} tokens in {:.1f} s, {:.0f} tokens/s\n", summary(numerics_of(options.model)),
             tokens, seconds, static_cast<double>(tokens) / seconds);
}

// The passes of every window.
Verification verify_windows(const execute::Session& session, int64_t window, int64_t windows) {
  const std::vector<plan::Pass> once = plan::chunked(window, session.plan().options.chunk_tokens);
  std::vector<plan::Pass> passes;
  for (int64_t i = 0; i < windows; ++i) passes.insert(passes.end(), once.begin(), once.end());
  return verify(session.plan(), passes, session.counts());
}

int run_eval(const Options& options) {
  const LoadedModel loaded = load(options.model);
  const Tokenizer tokenizer = load_tokenizer(loaded);
  const std::string what = checkpoint::printable_path(options.text);
  const std::vector<int32_t> stream =
      token_stream(read_text(options.text), what, tokenizer, loaded.model.config);
  const int64_t available = (static_cast<int64_t>(stream.size()) - 1) / options.window;
  const int64_t windows = options.windows > 0 ? options.windows : available;
  if (windows < 1 || windows > available)
    fail(ErrorKind::kRequest, "{}: expected at least {} windows of {} tokens, found {} tokens ({} windows)",
         what, std::max<int64_t>(windows, 1), options.window, stream.size(), std::max<int64_t>(available, 0));
  plan::Options plan_options;
  plan_options.context = options.window;
  plan_options.chunk_tokens = std::min<int64_t>(options.window, 256);
  plan_options.logits = plan::LogitRows::kAll;
  if (options.verify_plan)
    plan_options.passes = plan::Passes::kEager;  // a recorded pass counts its padding too
  execute::Session session(loaded.model, make_plan(loaded, options.model, plan_options));
  note_references(session.plan());
  std::vector<double> nll;
  const bool terminal = isatty(STDERR_FILENO) != 0;
  const double start = seconds_since_start();
  for (int64_t i = 0; i < windows; ++i) {
    nll.push_back(evaluate_window(session, std::span(stream).subspan(static_cast<size_t>(i * options.window)),
                                  options.window));
    if (terminal) fmt::print(stderr, "\rwindow {} of {}, nll {:.4f} ", i + 1, windows, mean(nll));
  }
  if (terminal) fmt::print(stderr, "\r{:40}\r", "");
  const double seconds = seconds_since_start() - start;
  std::optional<Verification> verification;
  if (options.verify_plan) verification = verify_windows(session, options.window, windows);
  print_result(options, nll, seconds, verification);
  if (!verification) return 0;
  fmt::print(stderr, "{}", verification->text);
  return verification->exit_code();
}

}  // namespace

void add_eval(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("eval", "Mean negative log-likelihood and perplexity of a text, window by window");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("--text", options->text, "A UTF-8 file; lines <|doc|> separate documents")->required();
  verb.add_option("--window", options->window,
                  "Tokens that a window predicts, each window from a fresh context")
      ->transform(integer(1, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_option("--windows", options->windows, "How many windows; 0: as many as the text holds")
      ->transform(integer(0, int64_t{1} << 30))
      ->capture_default_str();
  verb.add_flag("--json", options->json, "Print the result as JSON");
  add_execution(verb, options->model);
  verb.add_flag("--verify-plan", options->verify_plan, kVerifyPlanHelp);
  verb.callback([options, &run] { run = [options] { return run_eval(*options); }; });
}

}  // namespace fulgurite::tool
