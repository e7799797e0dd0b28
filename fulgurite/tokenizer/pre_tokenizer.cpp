#include "fulgurite/tokenizer/pre_tokenizer.h"

#include "fulgurite/tokenizer/oniguruma.h"

namespace fulgurite {

PreTokenizer::PreTokenizer(const std::vector<SplitStep>& steps) {
  for (const SplitStep& step : steps) {
    if (step.kind == SplitStep::Kind::kText) {
      steps_.emplace_back(pcre2_literal(step.pattern), step.what);
    } else {
      Regex(step.pattern, step.what);  // its errors give offsets in the pattern as the file has it
      steps_.emplace_back(pcre2_pattern(step.pattern, step.what), step.what);
    }
  }
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text) const {
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const Regex& step : steps_) pieces = step.cut(pieces);
  return pieces;
}

}  // namespace fulgurite
