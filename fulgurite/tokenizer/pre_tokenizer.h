#pragma once
// Cuts text into the pieces that byte pair encoding never joins: each step cuts the pieces of the step before
// into its pattern's matches and what lies between them ("Split", behavior "Isolated").

#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/tokenizer/regex.h"

namespace fulgurite {

struct SplitStep {
  std::string pattern;  // a regular expression in Oniguruma's syntax, or plain text
  enum class Kind { kRegex, kText } kind = Kind::kRegex;
  std::string what;  // names the step in messages
};

class PreTokenizer {
 public:
  explicit PreTokenizer(const std::vector<SplitStep>& steps);  // throws Error{kConfig}

  // `text` is UTF-8; the pieces are not empty and make up the text.
  std::vector<std::string_view> split(std::string_view text) const;

 private:
  std::vector<Regex> steps_;
};

}  // namespace fulgurite
