// fulgurite plan: every choice and every refusal, with its reason. Reads headers only.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tool/model_options.h"
#include "tool/table.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

struct Options {
  ModelOptions model;
  plan::Options plan;
  bool json = false;
};

std::string tokens_text(const plan::Row& row) {
  return row.last_token == INT64_MAX ? fmt::format("{}..", row.first_token)
                                     : fmt::format("{}..{}", row.first_token, row.last_token);
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
      table.add({layers_text(range), row.operation, row.implementation, row.format, tokens_text(row),
                 plan::human_bytes(row.workspace_bytes)});
      for (const std::string& refused : row.refused) table.note("refused " + refused);
    }
  }
  fmt::print("{}", table.text());
}

void print_bytes(const plan::Plan& plan) {
  const plan::Bytes& bytes = plan.bytes;
  Table table({{"memory"}, {"bytes", Align::kRight}, {"", Align::kRight}, {"what"}});
  const auto add = [&](const char* name, int64_t count, const std::string& what) {
    table.add({name, fmt::format("{}", count), plan::human_bytes(count), what});
  };
  add("weights viewed", bytes.viewed, "mapped from the checkpoint, not copied");
  add("prepared", bytes.prepared, "vectors as fp32, rotary tables");
  add("latent cache", bytes.latent_cache,
      fmt::format("{} sequence(s) of {} positions", plan.options.sequences, plan.options.context));
  add("index cache", bytes.index_cache, "the same");
  add("activations", bytes.activations, fmt::format("passes of up to {} tokens", plan.options.chunk_tokens));
  add("workspace", bytes.workspace, "the largest of any row");
  add("owned", bytes.owned(),
      bytes.owned() <= plan.device.available_bytes
          ? fmt::format("fits: {} available", plan::human_bytes(plan.device.available_bytes))
          : fmt::format("does NOT fit: {} available", plan::human_bytes(plan.device.available_bytes)));
  fmt::print("{}", table.text());
}

void print_text(const Options& options, const plan::Plan& plan) {
  fmt::print("{}: {}, context {}, batch {}\n", printable(options.model.directory),
             model::name(plan.config.family), plan.options.context, plan.options.sequences);
  fmt::print("device    cpu: {}, {}, {} thread(s)\n", plan.device.model, name(plan.device.target.isa),
             plan.device.threads);
  std::vector<std::string> knobs;
  for (const auto& [knob, value] : describe(plan.numerics)) knobs.push_back(knob + "=" + value);
  fmt::print("numerics  {}: {}\n\n", summary(plan.options.numerics), fmt::join(knobs, " "));
  print_rows(plan);
  fmt::print("\n");
  print_bytes(plan);
}

void print_json(const plan::Plan& plan) {
  nlohmann::ordered_json json{{"family", model::name(plan.config.family)},
                              {"device",
                               {{"kind", "cpu"},
                                {"model", plan.device.model},
                                {"isa", name(plan.device.target.isa)},
                                {"threads", plan.device.threads},
                                {"available_bytes", plan.device.available_bytes}}},
                              {"context", plan.options.context},
                              {"batch", plan.options.sequences},
                              {"chunk_tokens", plan.options.chunk_tokens},
                              {"bytes",
                               {{"viewed", plan.bytes.viewed},
                                {"prepared", plan.bytes.prepared},
                                {"latent_cache", plan.bytes.latent_cache},
                                {"index_cache", plan.bytes.index_cache},
                                {"activations", plan.bytes.activations},
                                {"workspace", plan.bytes.workspace},
                                {"owned", plan.bytes.owned()}}}};
  for (const auto& [knob, value] : describe(plan.numerics)) json["numerics"][knob] = value;
  json["rows"] = nlohmann::json::array();
  for (const plan::Row& row : plan.rows) {
    nlohmann::ordered_json entry{{"layer", nullptr},
                                 {"operation", row.operation},
                                 {"implementation", row.implementation},
                                 {"format", row.format},
                                 {"first_token", row.first_token},
                                 {"last_token", nullptr},
                                 {"workspace_bytes", row.workspace_bytes},
                                 {"refused", row.refused}};
    if (row.layer != model::kNoLayer) entry["layer"] = row.layer;
    if (row.last_token != INT64_MAX) entry["last_token"] = row.last_token;
    json["rows"].push_back(std::move(entry));
  }
  fmt::print("{}\n", json.dump(2));
}

int run_plan(const Options& options) {
  const LoadedModel loaded = load(options.model);
  const plan::Plan plan = make_plan(loaded, options.model, options.plan);
  if (options.json)
    print_json(plan);
  else
    print_text(options, plan);
  return 0;
}

}  // namespace

void add_plan(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("plan", "Every operation of every layer: implementation, formats, refusals, bytes");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_option("--context", options->plan.context, "Positions a sequence; 0: the model's maximum")
      ->check(kGiven)
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->capture_default_str();
  verb.add_option("--batch", options->plan.sequences, "Independent sequences")
      ->check(kGiven)
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 20))
      ->capture_default_str();
  verb.add_flag("--json", options->json, "Print the plan as JSON, a row a layer and operation");
  add_execution(verb, options->model);
  verb.callback([options, &run] { run = [options] { return run_plan(*options); }; });
}

}  // namespace fulgurite::tool
