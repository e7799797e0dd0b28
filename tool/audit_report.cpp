#include "tool/audit_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "tool/table.h"

namespace fulgurite::tool {
namespace {

using audit::Mean;
using audit::TensorStatistics;

std::string percent(double share) { return fmt::format("{:.3g} %", 100.0 * share); }
std::string distance(double value) { return value == 0.0 ? "0" : fmt::format("{:.2e}", value); }
std::string interval(const Mean& mean) {
  return mean.count == 0 ? "-" : fmt::format("{:+.1e} +- {:.1e}", mean.mean(), 1.96 * mean.error());
}

// --- operations ---

// The rows of an operation in all layers that ran the same implementation, as one line.
struct Group {
  std::string operation, implementation;
  int64_t layers = 0, beyond = 0, judged_tokens = 0;
  double worst_share = 0.0, l2 = 0.0, worst_row = 0.0, bias = 0.0;
  double differing = 0.0, differing_as_bf16 = 0.0;
  std::string largest = "-";  // error and place of the worst layer
};

void add(Group& group, const audit::OperationResult& op) {
  group.layers += 1;
  group.judged_tokens += op.judged_tokens;
  group.worst_share = std::max(group.worst_share, op.worst_share());
  for (const audit::Judged& judged : op.judged) {
    group.beyond += judged.beyond;
    if (op.outputs.empty()) group.l2 = std::max(group.l2, judged.relative_l2);  // it writes a cache alone
  }
  for (const audit::OutputStatistics& output : op.outputs) {
    const TensorStatistics& s = output.statistics;
    group.differing = std::max(group.differing, s.share_differing());
    group.differing_as_bf16 = std::max(group.differing_as_bf16, s.share_differing_as_bf16());
    if (std::abs(s.bias()) > std::abs(group.bias)) group.bias = s.bias();
    group.worst_row = std::max(group.worst_row, s.worst_row_l2);
    if (s.relative_l2() <= group.l2) continue;
    group.l2 = s.relative_l2();
    group.largest = fmt::format("{:.1e} layer {} {} [{}, {}]", s.largest, std::max<int64_t>(op.layer, 0),
                                output.name, s.largest_row, s.largest_column);
  }
}

std::vector<Group> groups_of(const std::vector<audit::OperationResult>& operations) {
  std::vector<Group> groups;
  for (const audit::OperationResult& op : operations) {
    auto found = std::ranges::find_if(groups, [&](const Group& group) {
      return group.operation == op.operation && group.implementation == op.implementation;
    });
    if (found == groups.end()) found = groups.insert(groups.end(), Group{op.operation, op.implementation});
    add(*found, op);
  }
  return groups;
}

std::string operations_table(const audit::AuditReport& report) {
  using enum Align;
  Table table({{"operation"},
               {"runs"},
               {"layers", kRight},
               {"beyond", kRight},
               {"of bound", kRight},
               {"relative L2", kRight},
               {"worst row", kRight},
               {"differ", kRight},
               {"as bf16", kRight},
               {"bias", kRight},
               {"largest error"}});
  for (const Group& g : groups_of(report.operations)) {
    if (g.implementation == "reference") {
      table.add({g.operation, g.implementation, fmt::format("{}", g.layers), "", "", "", "", "", "", "", ""});
      continue;
    }
    table.add({g.operation, g.implementation, fmt::format("{}", g.layers), fmt::format("{}", g.beyond),
               fmt::format("{:.3f}", g.worst_share), distance(g.l2), distance(g.worst_row),
               percent(g.differing), percent(g.differing_as_bf16), fmt::format("{:+.2f}", g.bias),
               g.largest});
  }
  return table.text();
}

// --- the whole ---

std::string layers_table(const audit::Divergence& whole) {
  using enum Align;
  Table table({{"layer", kRight},
               {"queries", kRight},
               {"sets differ", kRight},
               {"overlap", kRight},
               {"least", kRight},
               {"recall", kRight},
               {"least", kRight},
               {"ties at cut", kRight},
               {"margin 10 %", kRight},
               {"median", kRight},
               {"attn_out L2", kRight},
               {"hidden L2", kRight},
               {"worst row", kRight}});
  for (const audit::LayerDivergence& layer : whole.layers) {
    const audit::SelectionStatistics& s = layer.selection;
    std::vector<std::string> cells{fmt::format("{}", layer.layer)};
    if (!layer.selects || s.open == 0) {
      cells.insert(cells.end(), 9, "-");
      if (layer.selects) cells[1] = "0";
    } else {
      const bool recalls = s.recall.count > 0;
      const auto more = {fmt::format("{}", s.open),
                         percent(s.changed.mean()),
                         fmt::format("{:.5f}", s.overlap.mean()),
                         fmt::format("{:.4f}", s.least_overlap),
                         recalls ? fmt::format("{:.5f}", s.recall.mean()) : "-",
                         recalls ? fmt::format("{:.4f}", s.least_recall) : "-",
                         fmt::format("{}", s.rows_decided_by_tie),
                         distance(s.margin_quantile(0.1)),
                         distance(s.margin_quantile(0.5))};
      cells.insert(cells.end(), more.begin(), more.end());
    }
    for (const double l2 :
         {layer.attention.relative_l2(), layer.hidden.relative_l2(), layer.hidden.worst_row_l2})
      cells.push_back(distance(l2));
    table.add(cells);
  }
  return table.text();
}

std::string likelihood_line(const audit::LikelihoodStatistics& l) {
  return fmt::format(
      "likelihood: {} tokens, nll {:.6f} against {:.6f} of the references, difference {} (95 %); KL {:.2e} "
      "(largest {:.2e}); top-1 agreement {}\n",
      l.tokens, l.other_nll.mean(), l.base_nll.mean(), interval(l.nll_difference), l.kl.mean(), l.kl.largest,
      percent(l.top_agreement()));
}

std::string gates_text(const audit::AuditReport& report) {
  if (report.gates.empty()) return "the whole: no gate, for another order of the sums changes nothing here\n";
  std::string text = fmt::format(
      "the whole, against {} times the distance of two orders of the same sums (other softmax tiles):\n",
      audit::kGateFactor);
  for (const audit::Gate& gate : report.gates)
    text += fmt::format("  {} {}: {} of at most {}\n", gate.within() ? "ok  " : "FAIL", gate.name,
                        distance(gate.value), distance(gate.limit));
  return text;
}

// --- JSON ---

nlohmann::ordered_json json_of(const Mean& mean) {
  if (mean.count == 0) return nullptr;
  return {{"mean", mean.mean()},
          {"error", mean.count < 2 ? nlohmann::ordered_json() : nlohmann::ordered_json(mean.error())},
          {"count", mean.count},
          {"largest", mean.largest}};
}

nlohmann::ordered_json json_of(const TensorStatistics& s) {
  nlohmann::ordered_json json{{"rows", s.rows}, {"rows_differing", s.rows_differing}};
  if (s.indices) return json;
  nlohmann::ordered_json ulps;
  for (size_t i = 0; i < s.ulps.size(); ++i) ulps[TensorStatistics::kUlpNames[i]] = s.ulps[i];
  json.update({{"elements", s.elements},
               {"mask_mismatches", s.mask_mismatches},
               {"relative_l2", s.relative_l2()},
               {"worst_row_l2", s.worst_row_l2},
               {"worst_row", s.worst_row},
               {"largest", s.largest},
               {"largest_at", {s.largest_row, s.largest_column}},
               {"differing", s.differing},
               {"differing_as_bf16", s.differing_as_bf16},
               {"bias", s.bias()},
               {"ulps", ulps}});
  return json;
}

nlohmann::ordered_json json_of(const audit::OperationResult& op) {
  nlohmann::ordered_json json{
      {"layer", op.layer < 0 ? nlohmann::ordered_json() : nlohmann::ordered_json(op.layer)},
      {"operation", op.operation},
      {"implementation", op.implementation},
      {"within", op.within()},
      {"bounds", "derived from the arithmetic"},
      {"judged_tokens", op.judged_tokens},
      {"judged", nlohmann::ordered_json::array()},
      {"outputs", nlohmann::ordered_json::array()}};
  for (const audit::Judged& j : op.judged)
    json["judged"].push_back({{"name", j.name},
                              {"elements", j.elements},
                              {"beyond", j.beyond},
                              {"mask_mismatches", j.mask_mismatches},
                              {"worst_share_of_bound", j.worst_share},
                              {"relative_l2", j.relative_l2}});
  for (const audit::OutputStatistics& output : op.outputs) {
    json["outputs"].push_back({{"name", output.name}});
    json["outputs"].back().update(json_of(output.statistics));
  }
  return json;
}

nlohmann::ordered_json json_of(const audit::SelectionStatistics& s) {
  return {{"queries", s.rows},
          {"open", s.open},
          {"sets_differing", json_of(s.changed)},
          {"overlap", json_of(s.overlap)},
          {"least_overlap", s.least_overlap},
          {"least_overlap_row", s.least_overlap_row},
          {"recall", json_of(s.recall)},
          {"least_recall", s.least_recall},
          {"rows_decided_by_tie", s.rows_decided_by_tie},
          {"most_ties_at_cut", s.most_ties},
          {"margins", s.margins}};
}

nlohmann::ordered_json json_of(const audit::Divergence& whole) {
  nlohmann::ordered_json layers = nlohmann::ordered_json::array();
  for (const audit::LayerDivergence& layer : whole.layers) {
    layers.push_back(
        {{"layer", layer.layer}, {"attn_out", json_of(layer.attention)}, {"hidden", json_of(layer.hidden)}});
    if (layer.selects) layers.back()["selection"] = json_of(layer.selection);
  }
  const audit::LikelihoodStatistics& l = whole.likelihood;
  return {{"layers", layers},
          {"tokens", l.tokens},
          {"kl", json_of(l.kl)},
          {"top1_agreement", l.top_agreement()},
          {"nll", json_of(l.other_nll)},
          {"nll_base", json_of(l.base_nll)},
          {"nll_difference", json_of(l.nll_difference)},
          {"not_finite", l.not_finite}};
}

nlohmann::ordered_json json_of(const audit::Effect& e) {
  return {{"sets_differing", json_of(e.changed_sets)}, {"recall", json_of(e.recall)},
          {"attn_out_relative_l2", e.attention},       {"kl", json_of(e.kl)},
          {"top1_agreement", e.top_agreement},         {"nll_difference", json_of(e.nll_difference)}};
}

std::vector<std::string> effect_cells(const audit::Effect& e) {
  return {e.changed_sets.count == 0 ? "-" : percent(e.changed_sets.mean()),
          e.recall.count == 0 ? "-" : fmt::format("{:.5f}", e.recall.mean()),
          distance(e.attention),
          distance(e.kl.mean()),
          percent(e.top_agreement),
          interval(e.nll_difference)};
}

}  // namespace

std::string audit_page(const audit::AuditReport& report) {
  const int64_t judged = report.operations.empty() ? 0 : report.operations.front().judged_tokens;
  return fmt::format(
             "{} tokens in passes of {}. Each operation on the reference's inputs; bounds derived from the "
             "arithmetic, held for {} tokens.\n",
             report.positions, report.chunk_tokens, judged) +
         operations_table(report) + "\n" + layers_table(report.whole) +
         likelihood_line(report.whole.likelihood) + gates_text(report) +
         (report.within() ? "audit: within\n" : "audit: BEYOND\n");
}

nlohmann::ordered_json audit_json(const audit::AuditReport& report) {
  nlohmann::ordered_json json{
      {"within", report.within()},           {"positions", report.positions},
      {"chunk_tokens", report.chunk_tokens}, {"operations", nlohmann::ordered_json::array()},
      {"whole", json_of(report.whole)},      {"gates", nlohmann::ordered_json::array()}};
  for (const audit::OperationResult& op : report.operations) json["operations"].push_back(json_of(op));
  for (const audit::Gate& gate : report.gates)
    json["gates"].push_back({{"name", gate.name},
                             {"value", gate.value},
                             {"noise", gate.noise},
                             {"limit", gate.limit},
                             {"bound", "two orders of the same sums: other softmax tiles"},
                             {"within", gate.within()}});
  return json;
}

std::string what_if_page(const audit::Effect& noise, const std::vector<audit::WhatIf>& results) {
  using enum Align;
  Table table({{"what if"},
               {"knobs"},
               {"sets differ", kRight},
               {"recall", kRight},
               {"attn_out L2", kRight},
               {"KL", kRight},
               {"top-1 agree", kRight},
               {"nll difference, 95 %", kRight},
               {"measurable"},
               {"reported"}});
  const auto add = [&](std::string what, std::string knobs, const audit::Effect& effect, std::string verdict,
                       std::string source) {
    std::vector<std::string> cells = effect_cells(effect);
    cells.insert(cells.begin(), {std::move(what), std::move(knobs)});
    cells.insert(cells.end(), {std::move(verdict), std::move(source)});
    table.add(cells);
  };
  add("another order of the same sums", "", noise, "the noise", "");
  for (const audit::WhatIf& r : results) {
    const std::string what(r.choice.what), knobs(r.choice.knobs), source(r.choice.source);
    if (r.refusal.empty())
      add(what, knobs, r.effect, r.measurable ? "yes" : "nothing measurable", source);
    else
      table.add(
          {what, knobs, "-", "-", "-", "-", "-", "-", knobs.empty() ? "no knob says it" : "refused", source});
  }
  return table.text();
}

nlohmann::ordered_json what_if_json(const audit::Effect& noise, const std::vector<audit::WhatIf>& results) {
  nlohmann::ordered_json json{{"noise", json_of(noise)}, {"choices", nlohmann::ordered_json::array()}};
  for (const audit::WhatIf& r : results) {
    json["choices"].push_back(
        {{"what", r.choice.what}, {"knobs", r.choice.knobs}, {"reported", r.choice.source}});
    if (!r.refusal.empty()) {
      json["choices"].back()["refused"] = r.refusal;
      continue;
    }
    json["choices"].back()["measurable"] = r.measurable;
    json["choices"].back()["effect"] = json_of(r.effect);
  }
  return json;
}

}  // namespace fulgurite::tool
