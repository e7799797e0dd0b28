#include "fulgurite/tokenizer/added_tokens.h"

#include "fulgurite/core/error.h"
#include "fulgurite/core/utf8.h"
#include "fulgurite/tokenizer/unicode.h"

namespace fulgurite {
namespace {

// Offset at which the last character of `text` begins.
size_t last_character(std::string_view text) {
  size_t at = text.size() - 1;
  while ((static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

size_t without_trailing_space(std::string_view text) {
  while (!text.empty() && is_white_space(text.substr(last_character(text))))
    text = text.substr(0, last_character(text));
  return text.size();
}

size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t length = utf8_sequence_length(text.substr(at));
    if (!is_white_space(text.substr(at, length))) break;
    at += length;
  }
  return at;
}

uint64_t edge(uint32_t node, char byte) { return uint64_t{node} << 8 | static_cast<unsigned char>(byte); }

}  // namespace

AddedTokens::AddedTokens(const std::vector<AddedToken>& tokens, const ByteLevelBpe& model,
                         const std::string& what) {
  for (const AddedToken& token : tokens) {
    const auto in_model = model.id_of(token.content);
    if (in_model ? *in_model != token.id : model.bytes_of(token.id) != nullptr)
      fail(ErrorKind::kConfig, "{}: \"added_tokens\": \"{}\" has id {}, in \"vocab\" {}", what,
           printable(token.content), token.id,
           in_model ? fmt::format("its id is {}", *in_model) : "that is another token");
    // "é" in the vocabulary spells the byte 0xE9: one id would be two texts.
    if (in_model && *model.bytes_of(token.id) != token.content)
      fail(ErrorKind::kConfig, "{}: \"added_tokens\": \"{}\" is in \"vocab\" the spelling of other bytes",
           what, printable(token.content));
    if (!by_content_.emplace(token.content, token.id).second)
      fail(ErrorKind::kConfig, "{}: \"added_tokens\": \"{}\" stands twice", what, printable(token.content));
    const auto [at, is_new] = by_id_.emplace(token.id, token);
    if (!is_new) fail(ErrorKind::kConfig, "{}: \"added_tokens\": id {} stands twice", what, token.id);
    (token.normalized ? normalized_ : exact_).insert(at->second);
    if (token.single_word && !word_character_)
      word_character_.emplace(fmt::format("[{}]", word_characters()), what);
  }
}

void AddedTokens::Tree::insert(const AddedToken& token) {
  uint32_t node = 0;
  for (const char byte : token.content) {
    const auto [at, is_new] = child_.emplace(edge(node, byte), static_cast<uint32_t>(token_.size()));
    if (is_new) token_.push_back(nullptr);
    node = at->second;
  }
  token_[node] = &token;
}

const AddedToken* AddedTokens::Tree::longest_at(std::string_view text) const {
  const AddedToken* longest = nullptr;
  uint32_t node = 0;
  for (const char byte : text) {
    const auto at = child_.find(edge(node, byte));
    if (at == child_.end()) break;
    node = at->second;
    if (token_[node] != nullptr) longest = token_[node];
  }
  return longest;
}

bool AddedTokens::stands_alone(std::string_view before, std::string_view behind) const {
  const auto is_word = [this](std::string_view text) { return word_character_->matches_at_start(text); };
  return (before.empty() || !is_word(before.substr(last_character(before)))) &&
         (behind.empty() || !is_word(behind));
}

// The order of the steps is that of the Hugging Face library (added_vocabulary.rs, find_matches): a match
// that single_word discards still hides what begins inside it, and the search goes on behind the content, not
// behind the white space that rstrip took. A match of which that leaves nothing is dropped.
void AddedTokens::split(const Tree& tree, std::string_view text, std::vector<Part>& parts) const {
  size_t done = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = tree.longest_at(text.substr(at));
    if (token == nullptr) {
      at += 1;
      continue;
    }
    size_t begin = at;
    size_t end = at += token->content.size();
    if (token->single_word && !stands_alone(text.substr(0, begin), text.substr(end))) continue;
    if (token->lstrip)
      begin = done < begin ? done + without_trailing_space(text.substr(done, begin - done)) : done;
    if (token->rstrip) end += leading_space(text.substr(end));
    if (done < begin) parts.push_back({text.substr(done, begin - done), std::nullopt});
    if (begin < end) parts.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({text.substr(done), std::nullopt});
}

std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text) const {
  std::vector<Part> rough, parts;
  split(exact_, text, rough);
  for (const Part& part : rough) {
    if (part.id) {
      parts.push_back(part);
    } else {
      split(normalized_, part.text, parts);
    }
  }
  return parts;
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto at = by_id_.find(id);
  return at == by_id_.end() ? nullptr : &at->second;
}

std::optional<int32_t> AddedTokens::id_of(std::string_view content) const {
  const auto at = by_content_.find(content);
  return at == by_content_.end() ? std::nullopt : std::optional(at->second);
}

}  // namespace fulgurite
