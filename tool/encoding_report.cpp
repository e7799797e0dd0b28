#include "tool/encoding_report.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>

#include "tool/model_options.h"

namespace fulgurite::tool {
namespace {

constexpr size_t kMostRows = 20;  // of a table; --json has every weight

}  // namespace

void Progress::operator()(int64_t done_bytes, int64_t total_bytes) {
  const double now = seconds_since_start();
  if (isatty(STDERR_FILENO) == 0 || (now - shown_ < 0.2 && done_bytes < total_bytes)) return;
  shown_ = now;
  fmt::print(stderr, "\r{} of {}, {:.0f} s ", plan::human_bytes(done_bytes), plan::human_bytes(total_bytes),
             now);
  if (done_bytes == total_bytes) fmt::print(stderr, "\n");
}

std::string error_table(std::vector<Table::Column> columns, std::vector<EncodedWeight> weights) {
  std::erase_if(weights, [](const EncodedWeight& weight) { return !weight.error.any(); });
  if (weights.empty()) return "";
  const auto rank = [](const EncodedWeight& weight) {
    return std::isnan(weight.error.relative) ? INFINITY : weight.error.relative;
  };
  std::ranges::stable_sort(weights, std::ranges::greater(), rank);
  columns.insert(columns.end(), {{"relative error", Align::kRight},
                                 {"worst block", Align::kRight},
                                 {"at"},
                                 {"saturated", Align::kRight},
                                 {"flushed", Align::kRight}});
  Table table(columns);
  for (size_t i = 0; i < std::min(weights.size(), kMostRows); ++i) {
    const EncodingError& e = weights[i].error;
    std::vector<std::string> cells = weights[i].cells;
    cells.insert(cells.end(), {fmt::format("{:.3e}", e.relative), fmt::format("{:.3e}", e.worst_block),
                               fmt::format("[{}, {}]", e.worst_row, e.worst_column),
                               fmt::format("{}", e.saturated), fmt::format("{}", e.flushed)});
    table.add(cells);
  }
  if (weights.size() > kMostRows)
    table.note(fmt::format("{} more: --json has all", weights.size() - kMostRows));
  return table.text();
}

void add_error(nlohmann::ordered_json& entry, const EncodingError& e) {
  entry["relative_error"] = e.relative;
  entry["worst_block"] = {
      {"relative_error", e.worst_block}, {"row", e.worst_row}, {"column", e.worst_column}};
  entry["saturated"] = e.saturated;
  entry["flushed"] = e.flushed;
}

}  // namespace fulgurite::tool
