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

std::vector<std::string> effect_cells(const audit::Effect& e) {
  const Mean& sets = e.changed_sets;
  return {
      sets.count == 0 ? "-" : fmt::format("{:.1f} +- {:.1f} %", 100.0 * sets.mean(), 196.0 * sets.error()),
      e.recall.count == 0 ? "-" : fmt::format("{:.5f}", e.recall.mean()),
      distance(e.attention),
      e.kl.count == 0 ? "-" : fmt::format("{:.1e} +- {:.0e}", e.kl.mean(), 1.96 * e.kl.error()),
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

std::string what_if_page(const audit::Effect& noise, const std::vector<audit::WhatIf>& results) {
  using enum Align;
  Table table({{"what if"},
               {"knobs"},
               {"sets differ, 95 %", kRight},
               {"recall", kRight},
               {"attn_out L2", kRight},
               {"KL, 95 %", kRight},
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

}  // namespace fulgurite::tool
