#pragma once
// A text file as one stream of token ids: documents are separated by lines `<|doc|>`; each is the
// beginning-of-text id, its tokens, the end-of-text id. A document's text is its paragraphs joined and ended
// by two newlines.
// A line may end in CR LF.

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "fulgurite/model/config.h"
#include "fulgurite/tokenizer/tokenizer.h"

namespace fulgurite::tool {

std::vector<std::string> split_documents(std::string_view text);

// `what` names the text in messages. Throws Error{kRequest} for text that is not UTF-8.
std::vector<int32_t> token_stream(std::string_view text, const std::string& what, const Tokenizer& tokenizer,
                                  const model::Config& config);

}  // namespace fulgurite::tool
