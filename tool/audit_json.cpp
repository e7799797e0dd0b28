#include "tool/audit_json.h"

#include <array>
#include <cmath>

#include "tool/plan_json.h"

namespace fulgurite::tool {
namespace {

using audit::Mean;
using audit::TensorStatistics;

// Shares of a set that both chose; the last count is of sets that are the same.
constexpr std::array kOverlapEdges{0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.998, 1.0};
// Margins at the cut, of the range of the scores: half decades. The first count has the ties.
constexpr std::array kMarginEdges{1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1};

nlohmann::ordered_json json_of(const Mean& mean) {
  if (mean.count == 0) return nullptr;
  return {{"mean", mean.mean()},
          {"error", mean.count < 2 ? nlohmann::ordered_json() : nlohmann::ordered_json(mean.error())},
          {"count", mean.count},
          {"largest", mean.largest}};
}

nlohmann::ordered_json json_of(const audit::Histogram& histogram) {
  return {{"edges", histogram.edges}, {"counts", histogram.counts}};
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
          {"overlaps", json_of(audit::histogram_of(s.overlaps, kOverlapEdges))},
          {"margins", json_of(audit::histogram_of(s.margins, kMarginEdges))},
          {"each_margin", s.margins}};
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

}  // namespace

nlohmann::ordered_json without_each_margin(nlohmann::ordered_json divergence) {
  for (nlohmann::ordered_json& layer : divergence["layers"])
    if (layer.contains("selection")) layer["selection"].erase("each_margin");
  return divergence;
}

nlohmann::ordered_json audit_json(const audit::AuditReport& report) {
  nlohmann::ordered_json json{{"within", report.within()},
                              {"positions", report.positions},
                              {"chunk_tokens", report.chunk_tokens},
                              {"plan", nlohmann::ordered_json::array()},
                              {"operations", nlohmann::ordered_json::array()},
                              {"whole", json_of(report.whole)},
                              {"noise", without_each_margin(json_of(report.noise))},
                              {"gates", nlohmann::ordered_json::array()}};
  for (const plan::Row& row : report.rows) json["plan"].push_back(json_of(row));
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
