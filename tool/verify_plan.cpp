#include "tool/verify_plan.h"

#include <fmt/format.h>

#include "tool/table.h"

namespace fulgurite::tool {
namespace {

std::string layer_text(const plan::Row& row) {
  return row.layer == model::kNoLayer ? "-" : fmt::format("{}", row.layer);
}

std::string amount(const plan::RowCount& count) {
  return fmt::format("{} x, {} tokens", count.calls, count.tokens);
}

std::string table_of(const plan::Plan& plan, std::span<const plan::CountDifference> differences) {
  Table table(
      {{"layer"}, {"operation"}, {"planned"}, {"expected", Align::kRight}, {"counted", Align::kRight}});
  for (const auto& [index, expected, counted] : differences) {
    const plan::Row& row = plan.rows[index];
    table.add({layer_text(row), row.operation, row.implementation, amount(expected), amount(counted)});
    if (counted.unplanned_calls > 0)
      table.note(fmt::format("and {} x through {}, which the plan did not choose", counted.unplanned_calls,
                             counted.unplanned));
  }
  return fmt::format("verify-plan: {} of {} rows did not run as planned\n{}", differences.size(),
                     plan.rows.size(), table.text());
}

nlohmann::ordered_json json_of(const plan::RowCount& count) {
  nlohmann::ordered_json json{{"calls", count.calls}, {"tokens", count.tokens}};
  if (count.unplanned_calls > 0)
    json["unplanned"] = {{"implementation", count.unplanned}, {"calls", count.unplanned_calls}};
  return json;
}

}  // namespace

Verification verify(const plan::Plan& plan, std::span<const plan::Pass> passes,
                    std::span<const plan::RowCount> counted) {
  const std::vector<plan::RowCount> expected = plan::predicted_counts(plan, passes);
  const std::vector<plan::CountDifference> differences = plan::compare_counts(plan, passes, counted);
  Verification result;
  result.agrees = differences.empty();
  result.json = {{"agrees", result.agrees}, {"passes", passes.size()}, {"rows", nlohmann::json::array()}};
  int64_t calls = 0;
  for (size_t i = 0; i < plan.rows.size(); ++i) {
    const plan::Row& row = plan.rows[i];
    calls += counted[i].calls;
    result.json["rows"].push_back(
        {{"layer", row.layer == model::kNoLayer ? nlohmann::json() : nlohmann::json(row.layer)},
         {"operation", row.operation},
         {"implementation", row.implementation},
         {"expected", json_of(expected[i])},
         {"counted", json_of(counted[i])}});
  }
  result.text = result.agrees
                    ? fmt::format("verify-plan: all {} rows ran as planned (passes: {}, calls: {})\n",
                                  plan.rows.size(), passes.size(), calls)
                    : table_of(plan, differences);
  return result;
}

}  // namespace fulgurite::tool
