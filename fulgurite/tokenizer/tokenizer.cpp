#include "fulgurite/tokenizer/tokenizer.h"

#include <algorithm>

#include "fulgurite/core/error.h"
#include "fulgurite/core/utf8.h"
#include "fulgurite/tokenizer/added_tokens.h"
#include "fulgurite/tokenizer/byte_level_bpe.h"
#include "fulgurite/tokenizer/pre_tokenizer.h"
#include "fulgurite/tokenizer/tokenizer_file.h"

namespace fulgurite {
namespace {

// Positions inside a piece of text are 32-bit numbers.
constexpr size_t kLongestText = size_t{1} << 30;

void check_text(std::string_view text) {
  if (text.size() > kLongestText)
    fail(ErrorKind::kRequest, "text: {} bytes, at most {} can be encoded at once", text.size(), kLongestText);
  const size_t valid = utf8_valid_prefix(text);
  if (valid != text.size()) fail(ErrorKind::kRequest, "text: not valid UTF-8 at byte {}", valid);
}

}  // namespace

struct Tokenizer::Parts {
  Parts(const TokenizerFile& file, const std::string& what)
      : model(file.model, what + ": \"model\""),
        added(file.added_tokens, model, what),
        pre_tokenizer(file.splits) {}

  ByteLevelBpe model;
  AddedTokens added;
  PreTokenizer pre_tokenizer;
};

Tokenizer::Tokenizer(std::unique_ptr<const Parts> parts) : parts_(std::move(parts)) {}
Tokenizer::Tokenizer(Tokenizer&& other) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&& other) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::parse(std::string_view json_text, const std::string& what) {
  return Tokenizer(std::make_unique<const Parts>(read_tokenizer_file(json_text, what), what));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text) const {
  check_text(text);
  std::vector<int32_t> ids;
  for (const AddedTokens::Part& part : parts_->added.split(text)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      for (const std::string_view piece : parts_->pre_tokenizer.split(part.text))
        parts_->model.encode(piece, ids);
    }
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, SpecialTokens special) const {
  std::string text;
  for (const int32_t id : ids) {
    if (const AddedToken* token = parts_->added.find(id)) {
      if (special == SpecialTokens::kKeep || !token->special) text += token->content;
    } else if (const std::string* bytes = parts_->model.bytes_of(id)) {
      text += *bytes;
    } else {
      fail(ErrorKind::kRequest, "token {}: not in the vocabulary of {} entries", id, vocabulary());
    }
  }
  return text;
}

int64_t Tokenizer::vocabulary() const {
  return std::max<int64_t>(parts_->model.largest_id(), parts_->added.largest_id()) + 1;
}

std::optional<int32_t> Tokenizer::id_of(std::string_view token) const {
  if (const auto id = parts_->added.id_of(token)) return id;
  return parts_->model.id_of(token);
}

bool Tokenizer::is_special(int32_t id) const {
  const AddedToken* token = parts_->added.find(id);
  return token != nullptr && token->special;
}

}  // namespace fulgurite
