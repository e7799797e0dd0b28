#pragma once
// Tokens that are found in the text before everything else, special ones among them: leftmost, then longest.
// As in the Hugging Face library, tokens with `normalized: false` are found first, the others in what is left
// of the text, and `lstrip`, `rstrip` and `single_word` look at the characters around the match.

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fulgurite/tokenizer/byte_level_bpe.h"
#include "fulgurite/tokenizer/regex.h"

namespace fulgurite {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // only where no word character stands beside it
  bool lstrip = false;       // takes the white space before it along: decoding does not bring that back
  bool rstrip = false;       // the same behind it
  bool normalized = false;
  bool special = false;
};

class AddedTokens {
 public:
  // Throws Error{kConfig}: an id or a content twice, or one that the model's vocabulary has otherwise.
  AddedTokens(const std::vector<AddedToken>& tokens, const ByteLevelBpe& model, const std::string& what);
  AddedTokens(AddedTokens&&) = default;

  struct Part {
    std::string_view text;
    std::optional<int32_t> id;  // of the token that this part is; none: to be encoded
  };
  // `text` is UTF-8. The parts in order, none of them empty.
  std::vector<Part> split(std::string_view text) const;

  const AddedToken* find(int32_t id) const;  // nullptr: not an added token
  std::optional<int32_t> id_of(std::string_view content) const;
  int32_t largest_id() const { return by_id_.empty() ? -1 : by_id_.rbegin()->first; }

 private:
  // Contents as a tree of bytes.
  class Tree {
   public:
    void insert(const AddedToken& token);
    const AddedToken* longest_at(std::string_view text) const;  // nullptr: none starts here

   private:
    std::unordered_map<uint64_t, uint32_t> child_;   // by node, byte
    std::vector<const AddedToken*> token_{nullptr};  // by node
  };

  void split(const Tree& tree, std::string_view text, std::vector<Part>& parts) const;
  bool stands_alone(std::string_view before, std::string_view behind) const;

  std::map<int32_t, AddedToken> by_id_;  // its nodes do not move: the trees point at them
  std::map<std::string, int32_t, std::less<>> by_content_;
  Tree exact_, normalized_;
  std::optional<Regex> word_character_;  // there if a token asks for it
};

}  // namespace fulgurite
