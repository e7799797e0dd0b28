#include "fulgurite/tokenizer/text_stream.h"

#include <string_view>
#include <utility>

#include "fulgurite/core/utf8.h"

namespace fulgurite {
namespace {

// Bytes of the maximal subpart of an ill-formed sequence at the start of `text`.
size_t ill_formed_length(std::string_view text) {
  for (size_t length = 3; length > 1; --length)
    if (text.size() >= length && utf8_incomplete_tail(text.substr(0, length)) == length) return length;
  return 1;
}

std::string repaired(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t valid = utf8_valid_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += "\uFFFD";
    text.remove_prefix(ill_formed_length(text));
  }
  return out;
}

}  // namespace

TextStream::TextStream(const Tokenizer& tokenizer, SpecialTokens special)
    : tokenizer_(&tokenizer), special_(special) {}

std::string TextStream::push(int32_t id) {
  std::string text = waiting_ + tokenizer_->decode({&id, 1}, special_);
  waiting_ = text.substr(text.size() - utf8_incomplete_tail(text));
  text.resize(text.size() - waiting_.size());
  return repaired(text);
}

std::string TextStream::finish() { return repaired(std::exchange(waiting_, {})); }

}  // namespace fulgurite
