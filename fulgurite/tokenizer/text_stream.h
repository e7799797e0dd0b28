#pragma once
// Token by token to text that may be shown at once: a character whose bytes are spread over several tokens
// waits until it is whole. What can no longer become a character is shown as U+FFFD, one for each maximal
// subpart (Unicode 3.9).

#include <cstdint>
#include <string>

#include "fulgurite/tokenizer/tokenizer.h"

namespace fulgurite {

class TextStream {
 public:
  // Uses `tokenizer` for as long as it lives.
  explicit TextStream(const Tokenizer& tokenizer, SpecialTokens special = SpecialTokens::kKeep);

  std::string push(int32_t id);  // valid UTF-8, may be empty; throws Error{kRequest} as decode() does
  std::string finish();          // what is left; the stream is then as new

 private:
  const Tokenizer* tokenizer_;
  SpecialTokens special_;
  std::string waiting_;  // the beginning of one UTF-8 sequence, at most 3 bytes
};

}  // namespace fulgurite
