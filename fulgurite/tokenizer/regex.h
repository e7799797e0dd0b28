#pragma once
// A PCRE2 pattern over UTF-8, compiled once. Interpreted, not JIT: the same limits hold on every machine.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace fulgurite {

class Regex {
 public:
  // Throws Error{kConfig} with PCRE2's text and offset, and if the pattern can match nothing at all.
  Regex(const std::string& pattern, const std::string& what);
  Regex(Regex&& other) noexcept;
  ~Regex();

  // Cuts each piece into the matches and what lies between them. A piece is a text of its own: look-around
  // does not see past its ends. The pieces are valid UTF-8 and not empty, before and after. Throws
  // Error{kRequest} if the search exceeds its limits, which grow with the piece.
  std::vector<std::string_view> cut(const std::vector<std::string_view>& pieces) const;

  bool matches_at_start(std::string_view text) const;

 private:
  struct Compiled;
  class Search;
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace fulgurite
