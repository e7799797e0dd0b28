#include "tool/model_options.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "tool/option_values.h"

namespace fulgurite::tool {

void add_model(CLI::App& verb, ModelOptions& options) {
  verb.add_option("MODEL", options.directory,
                  "Directory of the checkpoint: config.json, tokenizer.json and safetensors")
      ->required();
}

namespace {

// `numerics` with its knob activation set. Throws CLI::ValidationError where it names another value.
std::string with_activation(const std::string& numerics, const std::string& activation) {
  constexpr std::string_view kKnob = ",activation=";
  const size_t at = numerics.find(kKnob);
  if (at == std::string::npos) return fmt::format("{}{}{}", numerics, kKnob, activation);
  const size_t value = at + kKnob.size();
  const std::string named = numerics.substr(value, numerics.find(',', value) - value);
  if (named != activation)
    throw CLI::ValidationError("--activation",
                               fmt::format("{} contradicts activation={} of --numerics", activation, named));
  return numerics;
}

}  // namespace

void add_activation(CLI::App& verb, std::string& activation, std::string& numerics) {
  verb.add_option("--activation", activation,
                  "What is stored between operations: short for the knob activation of --numerics")
      ->check(CLI::IsMember({"fp32", "bf16", "fp16"}));
  verb.parse_complete_callback([&activation, &numerics] {
    if (!activation.empty()) numerics = with_activation(numerics, activation);
  });
}

void add_execution(CLI::App& verb, ModelOptions& options) {
  verb.add_option(
          "--numerics", options.numerics,
          "PRESET[,knob=value...]: every rounding. Presets: serving (what engines run: bf16 between "
          "operations, fp8 operands), fp32 (exact weights, fp32 everywhere). Knobs: docs/numerics.md; "
          "`fulgurite plan` prints them all")
      ->type_name("NUMERICS")
      ->check(numerics())
      ->capture_default_str();
  add_activation(verb, options.activation, options.numerics);
  verb.add_option("--device", options.device, "What runs it: cpu, or cuda, the first GPU")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  verb.add_option("--threads", options.threads, "Threads; 0: every processor that the process may use")
      ->transform(integer(0, kMostThreads))
      ->capture_default_str();
  verb.add_flag(
      "--references", options.references,
      "Run the references only: plain loops with sums in double, the executable specification (slow)");
  verb.add_flag(
      "--eager", options.eager,
      "On a GPU: launch every kernel of a pass in its turn, in the place of passes that were recorded "
      "when the session was made");
  const auto add_demands = [&](const char* name, std::vector<std::string>& demands, const char* what) {
    verb.add_option(name, demands, what)
        ->type_name("OP:IMPL")
        ->check(demand())
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  };
  add_demands("--require", options.require,
              "OP (linear, or a line of the plan: 'linear q_a') has to run by IMPL; a plan that cannot is "
              "refused with all reasons. Repeatable");
  add_demands("--forbid", options.forbid, "OP must not run by IMPL. Repeatable");
}

void add_profile(CLI::App& verb, ModelOptions& options) {
  CLI::Option* const profile =
      verb.add_option("--profile", options.profile,
                      "What an engine computes, in the place of --numerics (docs/engine_profiles.md)")
          ->check(CLI::IsMember(audit::profile_names()));
  profile->excludes(verb.get_option("--numerics"))->excludes(verb.get_option("--activation"));
}

ModelOptions with_profile(ModelOptions options, const model::Config& config) {
  if (!options.profile.empty()) options.numerics = audit::profile_numerics(options.profile, config);
  return options;
}

Numerics numerics_of(const ModelOptions& options) { return parse_numerics(options.numerics); }

Device device_for(const ModelOptions& options) {
  Device device = cpu::machine();
  if (options.device == "cuda") {  // the host's threads run what references there are
    Device gpu = cuda::device();
    gpu.threads = device.threads;
    gpu.make_workers = device.make_workers;
    device = gpu;
  }
  note_threads(options.threads, device);
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

plan::Options plan_options(const ModelOptions& model_options, plan::Options options) {
  options.numerics = numerics_of(model_options);
  if (model_options.references) options.candidates = plan::Candidates::kReferencesOnly;
  if (model_options.eager) options.passes = plan::Passes::kEager;
  for (const std::string& text : model_options.require)
    options.demands.push_back(plan::parse_demand(plan::DemandKind::kRequire, text));
  for (const std::string& text : model_options.forbid)
    options.demands.push_back(plan::parse_demand(plan::DemandKind::kForbid, text));
  return options;
}

plan::Plan make_plan(const LoadedModel& loaded, const ModelOptions& model_options, plan::Options options) {
  return plan::make(loaded.model, device_for(model_options), plan_options(model_options, std::move(options)));
}

void note_references(const plan::Plan& plan) {
  if (plan::runs_references(plan.options)) return;
  std::vector<std::string> operations;
  for (const plan::Row& row : plan.rows)
    if (row.implementation == "reference" && std::ranges::find(operations, row.operation) == operations.end())
      operations.push_back(row.operation);
  if (!operations.empty())
    fmt::print(stderr, "runs by reference, slowly: {} (`fulgurite plan` says why)\n",
               fmt::join(operations, ", "));
}

std::string read_text(const std::string& path) { return std::string(checkpoint::MappedFile(path).text()); }

std::vector<int32_t> read_ids(const std::string& source) {
  const size_t colon = source.rfind(':');
  const auto file = checkpoint::SafetensorsFile::open(source.substr(0, colon));
  const checkpoint::TensorView& tensor = file.require(source.substr(colon + 1));
  if (tensor.dtype != DType::kI32 || tensor.shape.size() != 1 || tensor.shape[0] < 1)
    fail(ErrorKind::kRequest, "{}: expected I32 [tokens], found {}", printable(source),
         checkpoint::describe(tensor));
  const std::span<const int32_t> values = checkpoint::i32_values(tensor);
  return {values.begin(), values.end()};
}

double seconds_since_start() {
  static const auto start = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace fulgurite::tool
