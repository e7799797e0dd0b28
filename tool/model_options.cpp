#include "tool/model_options.h"

#include <chrono>

namespace fulgurite::tool {

void add_model(CLI::App& verb, ModelOptions& options) {
  verb.add_option("MODEL", options.directory,
                  "Directory of the checkpoint: config.json, tokenizer.json and safetensors")
      ->required();
}

void add_execution(CLI::App& verb, ModelOptions& options) {
  verb.add_option(
          "--numerics", options.numerics,
          "PRESET[,knob=value...]: every rounding. Presets: serving (what engines run: bf16 between "
          "operations, "
          "fp8 operands), fp32 (exact weights, fp32 everywhere). Knobs: docs/numerics.md; `fulgurite plan` "
          "prints them all")
      ->type_name("NUMERICS")
      ->capture_default_str();
  verb.add_option("--threads", options.threads, "Threads; 0: every processor that the process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  verb.add_flag(
      "--references", options.references,
      "Run the references only: plain loops with sums in double, the executable specification (slow)");
}

Device device_for(const ModelOptions& options) {
  Device device = cpu::machine();
  if (options.threads > 0) device.threads = options.threads;
  return device;
}

LoadedModel load(const ModelOptions& options) {
  checkpoint::Checkpoint checkpoint = checkpoint::open(options.directory);
  model::Model model = model::bind(checkpoint);
  return {std::move(checkpoint), std::move(model)};
}

Tokenizer load_tokenizer(const LoadedModel& loaded) {
  const std::string what = checkpoint::printable_path(loaded.checkpoint.tokenizer_path());
  Tokenizer tokenizer = Tokenizer::parse(loaded.checkpoint.tokenizer_text(), what);
  if (tokenizer.vocabulary() > loaded.model.config.vocabulary)
    fail(ErrorKind::kConfig, "{}: {} tokens, but config.json has a vocab_size of {}", what,
         tokenizer.vocabulary(), loaded.model.config.vocabulary);
  return tokenizer;
}

plan::Plan make_plan(const LoadedModel& loaded, const ModelOptions& model_options, plan::Options options) {
  options.numerics = parse_numerics(model_options.numerics);
  if (model_options.references) options.candidates = plan::Candidates::kReferencesOnly;
  return plan::make(loaded.model, device_for(model_options), options);
}

std::string read_text(const std::string& path) { return std::string(checkpoint::MappedFile(path).text()); }

double seconds_since_start() {
  static const auto start = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace fulgurite::tool
