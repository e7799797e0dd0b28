#pragma once
// tokenizer.json as values: what its fields say, with every feature that is not implemented refused by name.
// Whether the values fit each other is for those who use them to check. docs/formats/tokenizer.md describes
// the format.

#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/tokenizer/added_tokens.h"
#include "fulgurite/tokenizer/byte_level_bpe.h"
#include "fulgurite/tokenizer/pre_tokenizer.h"

namespace fulgurite {

struct TokenizerFile {
  BpeDescription model;
  std::vector<AddedToken> added_tokens;
  std::vector<SplitStep> splits;
};

// Throws Error{kConfig}.
TokenizerFile read_tokenizer_file(std::string_view json_text, const std::string& what);

}  // namespace fulgurite
