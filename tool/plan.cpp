// fulgurite plan: every choice and every refusal, with its reason. Reads headers only, but with
// --requantization the weights that it is about.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>

#include "fulgurite/plan/requantization.h"
#include "tool/encoding_report.h"
#include "tool/model_options.h"
#include "tool/option_values.h"
#include "tool/plan_json.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  plan::Options plan;
  std::string target;        // "": this machine
  bool config_only = false;  // MODEL's config.json is all that is read
  bool requantization = false;
  bool json = false;
};

std::string tokens_text(const plan::Row& row) {
  return row.last_token == INT64_MAX ? fmt::format("{}..", row.first_token)
                                     : fmt::format("{}..{}", row.first_token, row.last_token);
}

std::string runs_text(const plan::Row& row) {
  if (row.has_kernel) return row.implementation;
  return row.implementation + " (no kernel in this build)";
}

// On a CPU every row reads scales as they are stored, and none says so.
std::string format_text(const plan::Plan& plan, const plan::Row& row) {
  const bool says = !row.scales.empty() && plan.device.target.kind != DeviceKind::kCpu;
  std::string text = says ? row.format + "; handed " + row.scales : row.format;
  if (!row.sums.empty()) text += "; " + row.sums;
  return text;
}

bool same_but_layer(plan::Row a, const plan::Row& b) {
  a.layer = b.layer;
  return a == b;
}

// The rows of each layer, in order; then layers whose rows are alike become one range.
struct LayerRange {
  int64_t first = 0, last = 0;
  std::vector<plan::Row> rows;
};

std::vector<LayerRange> ranges(const plan::Plan& plan) {
  std::vector<LayerRange> ranges;
  for (const plan::Row& row : plan.rows) {
    if (ranges.empty() || ranges.back().first != row.layer) ranges.push_back({row.layer, row.layer, {}});
    ranges.back().rows.push_back(row);
  }
  std::vector<LayerRange> merged;
  for (LayerRange& range : ranges) {
    const bool alike = !merged.empty() && range.first != model::kNoLayer &&
                       merged.back().last + 1 == range.first &&
                       std::ranges::equal(merged.back().rows, range.rows, same_but_layer);
    if (alike)
      merged.back().last = range.last;
    else
      merged.push_back(std::move(range));
  }
  return merged;
}

std::string layers_text(const LayerRange& range) {
  if (range.first == model::kNoLayer) return "-";
  return range.first == range.last ? fmt::format("{}", range.first)
                                   : fmt::format("{}-{}", range.first, range.last);
}

void print_rows(const plan::Plan& plan) {
  Table table({{"layers"}, {"operation"}, {"runs"}, {"formats"}, {"tokens"}, {"workspace", Align::kRight}});
  for (const LayerRange& range : ranges(plan)) {
    for (const plan::Row& row : range.rows) {
      table.add({layers_text(range), row.operation, runs_text(row), format_text(plan, row), tokens_text(row),
                 plan::human_bytes(row.workspace_bytes)});
      for (const std::string& refused : row.refused) table.note("refused " + refused);
    }
  }
  fmt::print("{}", table.text());
}

// Has the plan a device, whose memory is known?
bool has_device(const Options& options) { return options.target.empty(); }

std::string fits_text(const Options& options, const plan::Plan& plan) {
  if (!has_device(options)) return "without a device: what it has is unknown";
  const std::string available = plan::human_bytes(plan.device.available_bytes);
  return fmt::format("{}: {} available",
                     plan.bytes.owned() <= plan.device.available_bytes ? "fits" : "does NOT fit", available);
}

void print_bytes(const Options& options, const plan::Plan& plan) {
  const plan::Bytes& bytes = plan.bytes;
  const bool cpu = plan.device.target.kind == DeviceKind::kCpu;
  Table table({{"memory"}, {"bytes", Align::kRight}, {"", Align::kRight}, {"what"}});
  const auto add = [&](const char* name, int64_t count, const std::string& what) {
    table.add({name, fmt::format("{}", count), plan::human_bytes(count), what});
  };
  add("weights viewed", bytes.viewed,
      cpu ? "mapped from the checkpoint, not copied" : "as the checkpoint stores them");
  add("prepared", bytes.prepared, "vectors as fp32, rotary tables, weights in another form");
  if (bytes.uploaded > 0) add("uploaded", bytes.uploaded, "all weights, in the GPU's memory");
  if (bytes.requantized > 0)
    add("requantized", bytes.requantized, "codes and scales of rows that read other scales");
  add("latent cache", bytes.latent_cache,
      fmt::format("{} sequence(s) of {} positions", plan.options.sequences, plan.options.context));
  const bool all = bytes.index_layers == plan.config.layers;
  add("index cache", bytes.index_cache,
      all ? "the same" : fmt::format("the same, in {} of {} layers", bytes.index_layers, plan.config.layers));
  if (bytes.compressor_state > 0) add("compressor state", bytes.compressor_state, "what open windows hold");
  add("activations", bytes.activations, fmt::format("passes of up to {} tokens", plan.options.chunk_tokens));
  add("workspace", bytes.workspace, "the largest of any row");
  add("owned", bytes.owned(), fits_text(options, plan));
  fmt::print("{}", table.text());
}

std::string device_text(const Options& options, const plan::Plan& plan) {
  const Target& target = plan.device.target;
  if (target.kind == DeviceKind::kCpu)
    return fmt::format("cpu: {}, {}, {} thread(s)",
                       has_device(options) ? plan.device.model : "planned without one", name(target.isa),
                       plan.device.threads);
  const auto version = [](int number) { return number == 0 ? "unknown" : fmt::format("{}", number); };
  return fmt::format("{}: {}; driver {}, cuBLASLt {}", name(target),
                     has_device(options) ? plan.device.model : "planned without one",
                     version(target.cuda.driver), version(target.cuda.cublaslt));
}

std::vector<std::string> demand_texts(const plan::Plan& plan) {
  std::vector<std::string> texts;
  for (const plan::Demand& demand : plan.options.demands) texts.push_back(describe(demand));
  return texts;
}

using Requantization = std::optional<std::vector<plan::RequantizedWeight>>;  // none: it was not asked for

void print_requantization(const std::vector<plan::RequantizedWeight>& all) {
  if (all.empty()) {
    fmt::print("requantization: none; every row reads scales as they are stored, or the same values\n");
    return;
  }
  std::vector<EncodedWeight> weights;
  for (const plan::RequantizedWeight& weight : all)
    weights.push_back({{printable(weight.tensor), weight.implementation, weight.from,
                        fmt::format("{} of {}", weight.kept_blocks, weight.blocks)},
                       weight.error});
  const auto lossy = std::ranges::count_if(all, [](const auto& weight) { return weight.error.any(); });
  fmt::print(
      "{}{} weights requantized to powers of two, {} of them exactly; the checkpoint's stay as they are\n",
      error_table({{"requantized"}, {"for"}, {"from"}, {"blocks kept", Align::kRight}}, std::move(weights)),
      all.size(), std::ssize(all) - lossy);
}

void print_text(const Options& options, const plan::Plan& plan, const Requantization& requantization) {
  fmt::print("{}: {}, context {}, batch {}\n", printable(options.model.directory),
             model::name(plan.config.family), plan.options.context, plan.options.sequences);
  if (options.config_only) fmt::print("weights   as quantization_config says: no tensor is read\n");
  fmt::print("device    {}\n", device_text(options, plan));
  std::vector<std::string> knobs;
  for (const auto& [knob, value] : describe(plan.numerics)) knobs.push_back(knob + "=" + value);
  fmt::print("numerics  {}: {}\n", summary(plan.options.numerics), fmt::join(knobs, " "));
  if (!plan.options.demands.empty()) fmt::print("demands   {}\n", fmt::join(demand_texts(plan), ", "));
  fmt::print("\n");
  print_rows(plan);
  fmt::print("\n");
  print_bytes(options, plan);
  if (!requantization) return;
  fmt::print("\n");
  print_requantization(*requantization);
}

nlohmann::ordered_json device_json(const Options& options, const plan::Plan& plan) {
  const Target& target = plan.device.target;
  nlohmann::ordered_json json{{"kind", name(target.kind)}, {"target", name(target)}};
  json["present"] = has_device(options);
  if (target.kind == DeviceKind::kCuda) {
    json["sm"] = target.sm;
    json["driver"] = target.cuda.driver;
    json["cublaslt"] = target.cuda.cublaslt;
    return json;
  }
  if (has_device(options)) json["model"] = plan.device.model;
  json["isa"] = name(target.isa);
  json["threads"] = plan.device.threads;
  if (has_device(options)) json["available_bytes"] = plan.device.available_bytes;
  return json;
}

nlohmann::ordered_json requantization_json(const std::vector<plan::RequantizedWeight>& all) {
  auto json = nlohmann::ordered_json::array();
  for (const plan::RequantizedWeight& weight : all) {
    nlohmann::ordered_json entry{{"tensor", weight.tensor},
                                 {"operation", weight.operation},
                                 {"implementation", weight.implementation},
                                 {"from", weight.from},
                                 {"to", weight.to},
                                 {"blocks", weight.blocks},
                                 {"kept_blocks", weight.kept_blocks}};
    add_error(entry, weight.error);
    json.push_back(std::move(entry));
  }
  return json;
}

void print_json(const Options& options, const plan::Plan& plan, const Requantization& requantization) {
  nlohmann::ordered_json json{{"family", model::name(plan.config.family)},
                              {"config_only", options.config_only},
                              {"device", device_json(options, plan)},
                              {"demands", demand_texts(plan)},
                              {"context", plan.options.context},
                              {"batch", plan.options.sequences},
                              {"chunk_tokens", plan.options.chunk_tokens},
                              {"bytes",
                               {{"viewed", plan.bytes.viewed},
                                {"prepared", plan.bytes.prepared},
                                {"uploaded", plan.bytes.uploaded},
                                {"latent_cache", plan.bytes.latent_cache},
                                {"index_cache", plan.bytes.index_cache},
                                {"index_cache_layers", plan.bytes.index_layers},
                                {"compressor_state", plan.bytes.compressor_state},
                                {"activations", plan.bytes.activations},
                                {"requantized", plan.bytes.requantized},
                                {"workspace", plan.bytes.workspace},
                                {"owned", plan.bytes.owned()}}}};
  for (const auto& [knob, value] : describe(plan.numerics)) json["numerics"][knob] = value;
  json["rows"] = nlohmann::json::array();
  for (const plan::Row& row : plan.rows) json["rows"].push_back(json_of(row));
  if (requantization) json["requantization"] = requantization_json(*requantization);
  fmt::print("{}\n", json.dump(2));
}

// MODEL is a directory with config.json, or the file.
model::Model outline_of(const std::string& path) {
  const std::filesystem::path file = std::filesystem::is_directory(path)
                                         ? std::filesystem::path(path) / "config.json"
                                         : std::filesystem::path(path);
  return model::outline(
      model::parse_config(read_text(file.string()), checkpoint::printable_path(file.string())));
}

Device device_of(const Options& options) {
  if (has_device(options)) return device_for(options.model);
  Device device = fulgurite::device_of(target_named(options.target));
  device.threads = std::max(options.model.threads, 1);
  return device;
}

int run_plan(const Options& options) {
  std::optional<LoadedModel> loaded;
  if (!options.config_only) loaded = load(options.model);
  const model::Model model =
      options.config_only ? outline_of(options.model.directory) : std::move(loaded->model);
  const plan::Plan plan = plan::make(model, device_of(options), plan_options(options.model, options.plan));
  Requantization requantization;
  Progress progress;
  if (options.requantization)
    requantization = plan::measure_requantization(
        model, plan, [&](int64_t done, int64_t total) { progress(done, total); });
  if (options.json)
    print_json(options, plan, requantization);
  else
    print_text(options, plan, requantization);
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("plan", "Every operation of every layer: implementation, formats, refusals, bytes");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("--context", options->plan.context, "Positions a sequence; 0: the model's maximum")
      ->transform(integer(0, int64_t{1} << 40))
      ->capture_default_str();
  verb.add_option("--batch", options->plan.sequences, "Independent sequences")
      ->transform(integer(1, int64_t{1} << 20))
      ->capture_default_str();
  verb.add_option("--target", options->target,
                  "Plan for cpu, sm80, sm90, sm100 or sm120, which need not be here; none: this machine. A "
                  "CPU by that name has the portable instruction set")
      ->check(target());
  CLI::Option* const config_only =
      verb.add_flag("--config-only", options->config_only,
                    "Read config.json alone (MODEL is its directory or the file): weights as "
                    "quantization_config says");
  verb.add_flag("--requantization", options->requantization,
                "Also read each weight that a row has requantized to powers of two, and print what that "
                "costs: relative error, worst block, saturated and flushed codes")
      ->excludes(config_only);
  verb.add_flag("--json", options->json, "Print the plan as JSON, a row a layer and operation");
  add_execution(verb, options->model);
  verb.callback([options, &run] { run = [options] { return run_plan(*options); }; });
}

}  // namespace fulgurite::tool
