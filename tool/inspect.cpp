// fulgurite inspect: what a checkpoint is, and what is wrong with it. Reads headers, with --sample some data.

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <tuple>

#include "tool/model_options.h"
#include "tool/table.h"
#include "tool/verbs.h"

namespace fulgurite::tool {
namespace {

constexpr int64_t kMostOfRule = 12;  // findings of one rule that are printed without --all

struct Options {
  ModelOptions model;
  bool all = false;
  bool json = false;
  bool sample = false;
};

struct Entry {
  std::string name;
  std::string role;
  std::string format;  // "F8_E4M3"
  std::string form;    // of a weight: "e4m3 128x128, scales f32"
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// Every known tensor of the checkpoint with its role, weights before their scales.
std::vector<Entry> entries(const model::Inspection& inspection) {
  std::vector<Entry> entries;
  for (const model::Inspected& weight : inspection.weights) {
    for (const checkpoint::TensorView* const part : weight.parts) {
      const bool itself = part->name == weight.name.name;
      entries.push_back({part->name, std::string(model::name(weight.name.role)) + (itself ? "" : ", scales"),
                         std::string(name(part->dtype)), itself ? weight.form : "", part->shape,
                         static_cast<int64_t>(part->bytes.size())});
    }
  }
  return entries;
}

// "model.layers.3.mlp.experts.7.x" -> "model.layers.*.mlp.experts.*.x"
std::string without_numbers(std::string_view name) {
  std::string pattern;
  while (!name.empty()) {
    const size_t dot = std::min(name.find('.'), name.size());
    const std::string_view part = name.substr(0, dot);
    pattern += part.find_first_not_of("0123456789") == std::string_view::npos ? "*" : std::string(part);
    if (dot < name.size()) pattern += ".";
    name.remove_prefix(std::min(dot + 1, name.size()));
  }
  return pattern;
}

// Tensors that differ in layer or expert alone become one line with a count.
std::vector<std::pair<Entry, int64_t>> grouped(const std::vector<Entry>& all) {
  std::vector<std::pair<Entry, int64_t>> groups;
  std::map<std::tuple<std::string, std::string, std::string, std::string, std::vector<int64_t>>, size_t>
      index;
  for (const Entry& entry : all) {
    const std::string pattern = without_numbers(entry.name);
    const auto [at, added] =
        index.try_emplace({pattern, entry.role, entry.format, entry.form, entry.shape}, groups.size());
    if (added) groups.push_back({{pattern, entry.role, entry.format, entry.form, entry.shape, 0}, 0});
    groups[at->second].first.bytes += entry.bytes;
    groups[at->second].second += 1;
  }
  return groups;
}

nlohmann::ordered_json dimensions(const model::Config& c) {
  nlohmann::ordered_json json{{"layers", c.layers},
                              {"dense_layers", c.dense_layers},
                              {"hidden", c.hidden},
                              {"vocabulary", c.vocabulary},
                              {"max_positions", c.max_positions},
                              {"heads", c.heads},
                              {"q_lora", c.q_lora},
                              {"kv_lora", c.kv_lora},
                              {"nope", c.nope},
                              {"rope", c.rope},
                              {"value", c.value},
                              {"index_heads", c.index_heads},
                              {"index_dim", c.index_dim},
                              {"index_topk", c.index_topk},
                              {"layers_sharing_index", std::ranges::count(c.shares_index, true)},
                              {"dense_width", c.dense_width},
                              {"expert_width", c.expert_width},
                              {"experts", c.experts},
                              {"shared_experts", c.shared_experts},
                              {"experts_per_token", c.experts_per_token},
                              {"expert_groups", c.expert_groups},
                              {"groups_kept", c.groups_kept},
                              {"routed_scale", c.routed_scale},
                              {"norm_eps", c.norm_eps},
                              {"softmax_scale", c.softmax_scale()},
                              {"rope_base", c.rope_base},
                              {"yarn_factor", c.yarn ? c.yarn->factor : 1.0},
                              {"mtp_layers", c.mtp_layers}};
  if (c.window) {
    json["head_dim"] = c.window->head_dim;
    json["window"] = c.window->window;
    json["ratios"] = c.window->ratios;
    json["o_groups"] = c.window->o_groups;
    json["o_lora"] = c.window->o_lora;
    json["compressed_rope_base"] = c.window->compressed_rope_base;
  }
  if (c.streams) json["streams"] = c.streams->count;
  if (c.hash_layers > 0) json["hash_layers"] = c.hash_layers;
  if (c.swiglu_limit) json["swiglu_limit"] = *c.swiglu_limit;
  if (c.quantization && c.quantization->block.columns != kWhole)
    json["weight_block"] = {c.quantization->block.rows, c.quantization->block.columns};
  return json;
}

int64_t total_bytes(const checkpoint::Survey& survey) {
  int64_t bytes = 0;
  for (const checkpoint::TensorView& tensor : survey.tensors)
    bytes += static_cast<int64_t>(tensor.bytes.size());
  return bytes;
}

void print_json(const checkpoint::Survey& survey, const model::Inspection& inspection) {
  nlohmann::ordered_json json{{"family", nullptr}, {"dimensions", nullptr}};
  if (inspection.config)
    json = {{"family", model::name(inspection.config->family)},
            {"dimensions", dimensions(*inspection.config)}};
  json["shards"] = survey.shard_names;
  json["total_bytes"] = total_bytes(survey);
  json["bound_bytes"] = inspection.bound_bytes;
  json["left_out_bytes"] = inspection.left_out_bytes;
  json["findings"] = nlohmann::json::array();
  for (const model::Finding& finding : inspection.findings)
    json["findings"].push_back({{"rule", name(finding.rule)},
                                {"severity", name(severity(finding.rule))},
                                {"tensor", printable(finding.subject)},
                                {"message", finding.message},
                                {"remedy", remedy(finding.rule)}});
  json["tensors"] = nlohmann::json::array();
  for (const Entry& entry : entries(inspection)) {
    json["tensors"].push_back({{"name", entry.name},
                               {"role", entry.role},
                               {"dtype", entry.format},
                               {"shape", entry.shape},
                               {"bytes", entry.bytes}});
    if (!entry.form.empty()) json["tensors"].back()["form"] = entry.form;
  }
  fmt::print("{}\n", json.dump(2));
}

void print_attention(const model::Config& c) {
  if (!c.window)
    return fmt::print("attention  {} heads of {} + {}, value {}; latent {} + {}; q_lora {}; context {}\n",
                      c.heads, c.nope, c.rope, c.value, c.kv_lora, c.rope, c.q_lora, c.max_positions);
  const model::WindowAttention& window = *c.window;
  fmt::print(
      "attention  {} heads of {} + {}, one key and value; window {}; q_lora {}; o {} x {}; context {}\n",
      c.heads, c.nope, c.rope, window.window, c.q_lora, window.o_groups, window.o_lora, c.max_positions);
  const auto layers_of = [&](int64_t ratio) { return std::ranges::count(window.ratios, ratio); };
  fmt::print("layers     {} of the window alone, {} of ratio 4, {} of ratio 128; {} streams\n", layers_of(0),
             layers_of(4), layers_of(128), c.streams->count);
}

void print_experts(const model::Config& c) {
  fmt::print("experts    {} of {} ({} of {} groups) x {}, shared {} x {}; ", c.experts_per_token, c.experts,
             c.groups_kept, c.expert_groups, c.expert_width, c.shared_experts, c.expert_width);
  if (c.hash_layers > 0)
    fmt::print("by token id in {} layers\n\n", c.hash_layers);
  else
    fmt::print("dense {}\n\n", c.dense_width);
}

void print_dimensions(const model::Config& c) {
  print_attention(c);
  const auto shared = std::ranges::count(c.shares_index, true);
  fmt::print("indexer    {} heads of {}, top {}{}\n", c.index_heads, c.index_dim, c.index_topk,
             shared > 0 ? fmt::format("; in {} of {} layers", c.layers - shared, c.layers) : "");
  print_experts(c);
}

void print_tensors(const Options& options, const model::Inspection& inspection) {
  Table table({{"tensor"},
               {"role"},
               {"dtype"},
               {"form"},
               {"shape"},
               {"count", Align::kRight},
               {"bytes", Align::kRight}});
  const auto add = [&](const Entry& e, int64_t count) {
    table.add({printable(e.name), e.role, e.format, e.form, fmt::format("[{}]", fmt::join(e.shape, ", ")),
               fmt::format("{}", count), fmt::format("{}", e.bytes)});
  };
  const std::vector<Entry> all = entries(inspection);
  if (options.all)
    for (const Entry& entry : all) add(entry, 1);
  else
    for (const auto& [entry, count] : grouped(all)) add(entry, count);
  fmt::print("{}\nread {}, left out {}\n", table.text(), plan::human_bytes(inspection.bound_bytes),
             plan::human_bytes(inspection.left_out_bytes));
}

void print_findings(const Options& options, const std::vector<model::Finding>& findings) {
  if (findings.empty()) fmt::print("no findings\n");
  for (size_t i = 0; i < findings.size();) {
    const model::Rule rule = findings[i].rule;
    fmt::print("\n{} {}: {}\n", name(severity(rule)), name(rule), remedy(rule));
    int64_t of_rule = 0;
    for (; i < findings.size() && findings[i].rule == rule; ++i)
      if (of_rule++ < kMostOfRule || options.all) fmt::print("  {}\n", findings[i].message);
    if (of_rule > kMostOfRule && !options.all) fmt::print("  and {} more: --all\n", of_rule - kMostOfRule);
  }
}

void print_text(const Options& options, const checkpoint::Survey& survey,
                const model::Inspection& inspection) {
  const std::string size =
      fmt::format("{} in {} tensors, {} shard(s)", plan::human_bytes(total_bytes(survey)),
                  survey.tensors.size(), survey.shard_names.size());
  if (!inspection.config) {
    fmt::print("{}: {}\n", printable(options.model.directory), size);
  } else {
    const model::Config& c = *inspection.config;
    fmt::print("{}: {}, {} layers ({} dense), {}\n\n", printable(options.model.directory),
               model::name(c.family), c.layers, c.dense_layers, size);
    print_dimensions(c);
    if (!inspection.weights.empty()) print_tensors(options, inspection);
  }
  print_findings(options, inspection.findings);
}

// 1 where the checkpoint cannot be loaded, or computes something else than its model.
int run_inspect(const Options& options) {
  const checkpoint::Survey survey = checkpoint::survey(options.model.directory);
  const model::Inspection inspection =
      model::inspect(survey, options.sample ? model::Sampling::kSample : model::Sampling::kHeadersOnly);
  if (options.json)
    print_json(survey, inspection);
  else
    print_text(options, survey, inspection);
  const bool wrong = std::ranges::any_of(inspection.findings, [](const model::Finding& finding) {
    return severity(finding.rule) == model::Severity::kError;
  });
  return wrong ? 1 : 0;
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  CLI::App& verb = *app.add_subcommand(
      "inspect",
      "What a checkpoint is, the form of each tensor, and what is wrong with it (an error: exit code 1)");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_flag("--all", options->all, "A line a tensor, also where layers and experts are alike");
  verb.add_flag("--json", options->json, "Print dimensions, findings and every tensor as JSON");
  verb.add_flag("--sample", options->sample,
                "Look at a bounded sample of codes and scales too; without it headers alone are read");
  verb.callback([options, &run] { run = [options] { return run_inspect(*options); }; });
}

}  // namespace fulgurite::tool
