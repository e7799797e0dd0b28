#include "tool/bisect_report.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "tool/table.h"

namespace fulgurite::tool {
namespace {

using audit::BisectReport;
using audit::Explanation;
using audit::StageResult;

std::string distance_text(const audit::StageDistance& d) {
  if (!d.indices) return fmt::format("{:.1e}", d.relative_l2);
  return d.rows_beyond == 0 ? "same sets" : fmt::format("{} other sets", d.rows_beyond);
}

std::string gate_text(const StageResult& s) {
  return s.distance.indices ? "0" : fmt::format("{:.1e}", s.gate.all);
}

std::string place(const StageResult& s, int64_t row) {
  return fmt::format("{} {}", s.entries ? "entry" : "position", s.first_row + row);
}

std::string worst_text(const StageResult& s) {
  const audit::StageDistance& d = s.distance;
  if (d.worst_row < 0 || (d.indices && d.rows_beyond == 0)) return "";
  if (d.indices) return place(s, d.worst_row);
  return fmt::format("{:.1e} at {}", d.worst_row_l2, place(s, d.worst_row));
}

std::string verdict_text(const BisectReport& report, const StageResult& s) {
  if (s.within()) return "within";
  const std::string rows = fmt::format("{} of {} rows beyond", s.distance.rows_beyond, s.distance.rows);
  return &s == report.first_bad ? "FIRST BEYOND: " + rows : "beyond: " + rows;
}

std::string what_differs(const StageResult& s) {
  const audit::StageDistance& d = s.distance;
  if (!d.indices)
    return fmt::format(
        "{}: relative L2 {:.2e}, gate {:.1e} ({}); worst row {:.2e} at {}, column {}: {:g}, expected {:g}; "
        "{:.1f} % of rows "
        "beyond; bias of magnitude {:+.2f}",
        s.name, d.relative_l2, s.gate.all,
        s.gate.from_noise ? "4 x the noise between two orders of the same sums" : "what its storage allows",
        d.worst_row_l2, place(s, d.worst_row), d.worst_column, d.theirs, d.ours,
        100.0 * static_cast<double>(d.rows_beyond) / static_cast<double>(d.rows), d.bias);
  const std::string members =
      !d.problem.empty()
          ? d.problem
          : fmt::format("has {}, and not {}", d.theirs < 0 ? "nothing more" : fmt::format("{}", d.theirs),
                        d.ours < 0 ? "another" : fmt::format("{}", d.ours));
  return fmt::format("{}: {} of {} rows are other sets; the first, {}, {}", s.name, d.rows_beyond, d.rows,
                     place(s, d.worst_row), members);
}

std::string explanation_text(const Explanation& e) {
  std::string text =
      fmt::format("{}: leaves {:.1e}, gate {:.1e}", e.knobs, e.distance.relative_l2, e.gate.all);
  if (!e.source.empty()) text += fmt::format(" ({})", e.source);
  text += e.explains_all() ? "; with it every stage is within its gate"
                           : fmt::format("; with it {} is the first beyond its gate", e.next_bad);
  return text;
}

std::string conclusion(const BisectReport& report) {
  if (report.within()) return "Every stage of the dump is within its gate.\n";
  std::string text = fmt::format("First beyond its gate: {}\n", what_differs(*report.first_bad));
  if (!report.not_in_dump.empty())
    text += fmt::format("The dump has none of {}: the mistake may lie in any of them.\n",
                        fmt::join(report.not_in_dump, ", "));
  if (report.tried == 0) return text;
  if (const Explanation* const single = report.single())
    return text + fmt::format("One choice explains it: {}\n", explanation_text(*single));
  if (report.explanations.empty())
    return text + fmt::format("No single choice explains it ({} tried{}).\n", report.tried,
                              report.nearest.empty()
                                  ? ""
                                  : fmt::format("; the nearest, {}, leaves {:.0f} % of the distance",
                                                report.nearest, 100.0 * report.nearest_share));
  text += fmt::format("{} choices explain it, and the dump does not tell them apart:\n",
                      report.explanations.size());
  for (const Explanation& e : report.explanations) text += "  " + explanation_text(e) + "\n";
  return text;
}

}  // namespace

std::string bisect_page(const audit::Dump& dump, const BisectReport& report) {
  Table table({{"stage"},
               {"rows", Align::kRight},
               {"relative L2", Align::kRight},
               {"gate", Align::kRight},
               {"worst row", Align::kLeft},
               {"verdict"}});
  for (const StageResult& s : report.stages)
    table.add({s.name, std::to_string(s.distance.rows), distance_text(s.distance), gate_text(s),
               worst_text(s), verdict_text(report, s)});
  std::string unread;
  if (!dump.unread().empty())
    unread = fmt::format("not read: {} tensors whose names say nothing here ({}{})\n", dump.unread().size(),
                         printable(dump.unread().front()), dump.unread().size() > 1 ? ", ..." : "");
  return table.text() + unread + conclusion(report);
}

nlohmann::ordered_json bisect_json(const std::string& model, const std::string& numerics, double seconds,
                                   const audit::Dump& dump, const BisectReport& report) {
  // JSON has no infinity.
  const auto number = [](double value) {
    return std::isfinite(value) ? nlohmann::ordered_json(value)
                                : nlohmann::ordered_json(fmt::format("{}", value));
  };
  nlohmann::ordered_json json{{"model", model},
                              {"numerics", numerics},
                              {"positions", dump.positions()},
                              {"seconds", seconds},
                              {"within", report.within()},
                              {"first_bad", nullptr},
                              {"explained_by", nullptr},
                              {"stages", nlohmann::ordered_json::array()},
                              {"explanations", nlohmann::ordered_json::array()}};
  if (report.first_bad != nullptr) json["first_bad"] = report.first_bad->name;
  if (const Explanation* const single = report.single()) json["explained_by"] = single->knobs;
  for (const StageResult& s : report.stages) {
    const audit::StageDistance& d = s.distance;
    json["stages"].push_back({{"name", s.name},
                              {"within", s.within()},
                              {"rows", d.rows},
                              {"sets", d.indices},
                              {"relative_l2", number(d.relative_l2)},
                              {"gate", s.gate.all},
                              {"worst_row_relative_l2", number(d.worst_row_l2)},
                              {"row_gate", s.gate.row},
                              {"gate_from", s.gate.from_noise ? "noise" : "storage"},
                              {"worst_row", d.worst_row < 0 ? -1 : s.first_row + d.worst_row},
                              {"worst_column", d.worst_column},
                              {"ours", number(d.ours)},
                              {"theirs", number(d.theirs)},
                              {"rows_beyond", d.rows_beyond},
                              {"bias", d.bias},
                              {"problem", d.problem}});
  }
  for (const Explanation& e : report.explanations)
    json["explanations"].push_back({{"knobs", e.knobs},
                                    {"source", e.source},
                                    {"relative_l2", number(e.distance.relative_l2)},
                                    {"gate", e.gate.all},
                                    {"explains_all", e.explains_all()},
                                    {"next_bad", e.next_bad}});
  json["not_in_dump"] = report.not_in_dump;
  json["tried"] = report.tried;
  json["refused"] = report.refused;
  json["nearest"] = {{"knobs", report.nearest}, {"share_left", number(report.nearest_share)}};
  json["not_read"] = dump.unread();
  return json;
}

}  // namespace fulgurite::tool
