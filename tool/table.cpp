#include "tool/table.h"

#include <fmt/format.h>

#include <algorithm>

namespace fulgurite::tool {

void Table::add(std::vector<std::string> cells) { lines_.push_back({std::move(cells), ""}); }

void Table::note(std::string line) { lines_.push_back({{}, std::move(line)}); }

std::string Table::text() const {
  std::vector<size_t> widths;
  for (const Column& column : columns_) widths.push_back(column.title.size());
  for (const Line& line : lines_)
    for (size_t i = 0; i < line.cells.size(); ++i) widths[i] = std::max(widths[i], line.cells[i].size());

  const auto write = [&](const auto& cell) {
    std::string row;
    for (size_t i = 0; i < columns_.size(); ++i) {
      if (i > 0) row += "  ";
      row += columns_[i].align == Align::kRight ? fmt::format("{:>{}}", cell(i), widths[i])
                                                : fmt::format("{:<{}}", cell(i), widths[i]);
    }
    row.erase(row.find_last_not_of(' ') + 1);
    return row + "\n";
  };
  std::string text = write([&](size_t i) { return columns_[i].title; });
  for (const Line& line : lines_)
    text += line.cells.empty() ? "    " + line.note + "\n" : write([&](size_t i) { return line.cells[i]; });
  return text;
}

}  // namespace fulgurite::tool
