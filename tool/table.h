#pragma once
// An aligned table for a person: a header line, then rows; numbers to the right.

#include <string>
#include <vector>

namespace fulgurite::tool {

enum class Align { kLeft, kRight };

class Table {
 public:
  struct Column {
    std::string title;
    Align align = Align::kLeft;
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  void add(std::vector<std::string> cells);  // as many as there are columns
  void note(std::string line);               // a line of its own under the last row
  std::string text() const;                  // with a newline after each line

 private:
  struct Line {
    std::vector<std::string> cells;  // empty: a note
    std::string note;
  };
  std::vector<Column> columns_;
  std::vector<Line> lines_;
};

}  // namespace fulgurite::tool
