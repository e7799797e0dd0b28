// fulgurite inspect: what a checkpoint is. Reads headers only.

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

struct Options {
  ModelOptions model;
  bool all = false;
  bool json = false;
};

struct Entry {
  std::string name;
  std::string role;
  std::string format;  // "F8_E4M3"
  std::vector<int64_t> shape;
  int64_t bytes = 0;
};

// Every tensor of the checkpoint with its role, weights before their scales.
std::vector<Entry> entries(const LoadedModel& loaded) {
  std::vector<Entry> entries;
  const auto add = [&](const std::string& name, std::string role) {
    if (const checkpoint::TensorView* const tensor = loaded.checkpoint.find(name))
      entries.push_back({name, std::move(role), std::string(fulgurite::name(tensor->dtype)), tensor->shape,
                         static_cast<int64_t>(tensor->bytes.size())});
  };
  for (const model::TensorName& tensor : loaded.model.names) {
    const std::string role(model::name(tensor.role));
    add(tensor.name, role);
    add(model::scale_name(tensor), role + ", scales");
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
  std::map<std::tuple<std::string, std::string, std::string, std::vector<int64_t>>, size_t> index;
  for (const Entry& entry : all) {
    const std::string pattern = without_numbers(entry.name);
    const auto [at, added] =
        index.try_emplace({pattern, entry.role, entry.format, entry.shape}, groups.size());
    if (added) groups.push_back({{pattern, entry.role, entry.format, entry.shape, 0}, 0});
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
  if (c.quantization) json["weight_block"] = {c.quantization->block.rows, c.quantization->block.columns};
  return json;
}

void print_json(const LoadedModel& loaded, const std::vector<Entry>& all) {
  nlohmann::ordered_json json{{"family", model::name(loaded.model.config.family)},
                              {"dimensions", dimensions(loaded.model.config)},
                              {"shards", loaded.checkpoint.shard_names()},
                              {"total_bytes", loaded.checkpoint.total_bytes()},
                              {"bound_bytes", loaded.model.bound_bytes},
                              {"left_out_bytes", loaded.model.left_out_bytes},
                              {"tensors", nlohmann::json::array()}};
  for (const Entry& entry : all)
    json["tensors"].push_back({{"name", entry.name},
                               {"role", entry.role},
                               {"dtype", entry.format},
                               {"shape", entry.shape},
                               {"bytes", entry.bytes}});
  fmt::print("{}\n", json.dump(2));
}

void print_text(const Options& options, const LoadedModel& loaded, const std::vector<Entry>& all) {
  const model::Config& c = loaded.model.config;
  fmt::print("{}: {}, {} layers ({} dense), {} in {} tensors, {} shard(s)\n\n",
             printable(options.model.directory), model::name(c.family), c.layers, c.dense_layers,
             plan::human_bytes(loaded.checkpoint.total_bytes()), loaded.checkpoint.tensors().size(),
             loaded.checkpoint.shard_names().size());
  fmt::print("attention  {} heads of {} + {}, value {}; latent {} + {}; q_lora {}; context {}\n", c.heads,
             c.nope, c.rope, c.value, c.kv_lora, c.rope, c.q_lora, c.max_positions);
  fmt::print("indexer    {} heads of {}, top {}\n", c.index_heads, c.index_dim, c.index_topk);
  fmt::print("experts    {} of {} ({} of {} groups) x {}, shared {} x {}; dense {}\n\n", c.experts_per_token,
             c.experts, c.groups_kept, c.expert_groups, c.expert_width, c.shared_experts, c.expert_width,
             c.dense_width);
  Table table(
      {{"tensor"}, {"role"}, {"dtype"}, {"shape"}, {"count", Align::kRight}, {"bytes", Align::kRight}});
  const auto add = [&](const Entry& e, int64_t count) {
    table.add({printable(e.name), e.role, e.format, fmt::format("[{}]", fmt::join(e.shape, ", ")),
               fmt::format("{}", count), fmt::format("{}", e.bytes)});
  };
  if (options.all)
    for (const Entry& entry : all) add(entry, 1);
  else
    for (const auto& [entry, count] : grouped(all)) add(entry, count);
  fmt::print("{}\nread {}, left out {}\n", table.text(), plan::human_bytes(loaded.model.bound_bytes),
             plan::human_bytes(loaded.model.left_out_bytes));
}

int run_inspect(const Options& options) {
  const LoadedModel loaded = load(options.model);
  const std::vector<Entry> all = entries(loaded);
  if (options.json)
    print_json(loaded, all);
  else
    print_text(options, loaded, all);
  return 0;
}

}  // namespace

void add_inspect(CLI::App& app, Run& run) {
  CLI::App& verb =
      *app.add_subcommand("inspect", "What a checkpoint is: family, dimensions, tensors; reads headers only");
  const auto options = std::make_shared<Options>();
  add_model(verb, options->model);
  verb.add_flag("--all", options->all, "A line a tensor, also where layers and experts are alike");
  verb.add_flag("--json", options->json, "Print dimensions and every tensor as JSON");
  verb.callback([options, &run] { run = [options] { return run_inspect(*options); }; });
}

}  // namespace fulgurite::tool
