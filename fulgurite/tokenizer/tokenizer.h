#pragma once
// tokenizer.json -> ids and back: byte-level BPE as the DeepSeek models use it. Ids equal those of Hugging
// Face tokenizers without its post-processor: whoever wants a begin-of-sentence id in front puts it there.
// docs/formats/tokenizer.md says what of the file is implemented; anything else is refused by name at load.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgurite {

enum class SpecialTokens { kKeep, kSkip };  // in decoded text

class Tokenizer {
 public:
  // `what` names the file in messages. Throws Error{kConfig}.
  static Tokenizer parse(std::string_view json_text, const std::string& what);

  Tokenizer(Tokenizer&& other) noexcept;
  Tokenizer& operator=(Tokenizer&& other) noexcept;
  ~Tokenizer();

  // Added tokens that stand in the text become their ids, special ones too. Throws Error{kRequest} at invalid
  // UTF-8 and naming its offset. May be called from several threads at once.
  std::vector<int32_t> encode(std::string_view text) const;

  // The bytes of the tokens; those of encode(text) are the text again. Other ids may end inside a UTF-8
  // sequence or form none: TextStream is for showing them. Throws Error{kRequest} at an id that no token has.
  std::string decode(std::span<const int32_t> ids, SpecialTokens special = SpecialTokens::kKeep) const;

  int64_t vocabulary() const;  // largest id + 1
  // `token` as the file spells it: added tokens as their text, others in the byte-level alphabet ("Ġthe").
  std::optional<int32_t> id_of(std::string_view token) const;
  bool is_special(int32_t id) const;

 private:
  struct Parts;
  explicit Tokenizer(std::unique_ptr<const Parts> parts);
  std::unique_ptr<const Parts> parts_;
};

}  // namespace fulgurite
