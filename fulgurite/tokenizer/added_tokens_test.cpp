#include "fulgurite/tokenizer/added_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/tokenizer/test_tokenizer.h"

namespace fulgurite {
namespace {

using testing::ElementsAre;

AddedToken token(int32_t id, const std::string& content) {
  AddedToken token;
  token.id = id;
  token.content = content;
  return token;
}

AddedTokens added(const std::vector<AddedToken>& tokens) {
  return {tokens, ByteLevelBpe(small_model(), "m"), "t"};
}

// The parts as text; a token as its id behind the text it took.
std::vector<std::string> split(const std::vector<AddedToken>& tokens, std::string_view text) {
  const AddedTokens set = added(tokens);
  std::vector<std::string> parts;
  for (const auto& part : set.split(text))
    parts.push_back(std::string(part.text) + (part.id ? fmt::format("={}", *part.id) : ""));
  return parts;
}

TEST(added_tokens, the_leftmost_then_the_longest_is_taken) {
  const std::vector<AddedToken> tokens{token(300, "pq"), token(301, "pqrs"), token(302, "qrstu"),
                                       token(303, "中")};
  EXPECT_THAT(split(tokens, "xpqrstu"), ElementsAre("x", "pqrs=301", "tu"));
  EXPECT_THAT(split(tokens, "pqrpq中"), ElementsAre("pq=300", "r", "pq=300", "中=303"));
  EXPECT_THAT(split(tokens, ""), ElementsAre());
}

TEST(added_tokens, strips_take_white_space_along) {
  AddedToken left = token(300, "<l>"), right = token(301, "<r>");
  left.lstrip = true;
  right.rstrip = true;
  EXPECT_THAT(split({left, right}, "a \u3000<l> b"), ElementsAre("a", " \u3000<l>=300", " b"));
  EXPECT_THAT(split({left, right}, " <r>\n\u0085a"), ElementsAre(" ", "<r>\n\u0085=301", "a"));
  EXPECT_THAT(split({left, right}, "<r>  <l>"), ElementsAre("<r>  =301", "<l>=300"));
  EXPECT_THAT(split({left, right}, "<r>\u180e<l>"), ElementsAre("<r>=301", "\u180e", "<l>=300"));
}

TEST(added_tokens, a_single_word_has_no_word_character_beside_it) {
  AddedToken word = token(300, "pq");
  word.single_word = true;
  EXPECT_THAT(split({word}, "pq"), ElementsAre("pq=300"));
  EXPECT_THAT(split({word}, "(pq)-pq"), ElementsAre("(", "pq=300", ")-", "pq=300"));
  for (const char* inside : {"xpq", "pqx", "pq_", "é中pq", "pq\u0301", "7pq", "pq\u200d", "pq\u0897"})
    EXPECT_THAT(split({word}, inside), ElementsAre(inside));
}

TEST(added_tokens, what_single_word_discards_hides_what_is_inside) {
  AddedToken word = token(300, "abab");
  word.single_word = true;
  EXPECT_THAT(split({word, token(301, "ba")}, "ababx ba"), ElementsAre("ababx ", "ba=301"));
}

TEST(added_tokens, tokens_that_are_not_normalized_come_first) {
  AddedToken late = token(300, "pqr");
  late.normalized = true;
  EXPECT_THAT(split({late, token(301, "qr")}, "pqr"), ElementsAre("p", "qr=301"));
}

TEST(added_tokens, they_agree_with_the_vocabulary) {
  EXPECT_EQ(added({token(256, "ab")}).id_of("ab"), 256);
  EXPECT_EQ(refusal([] { added({token(257, "ab")}); }),
            "t: \"added_tokens\": \"ab\" has id 257, in \"vocab\" its id is 256");
  EXPECT_EQ(refusal([] { added({token(257, "xx")}); }),
            "t: \"added_tokens\": \"xx\" has id 257, in \"vocab\" that is another token");
  EXPECT_EQ(refusal([] {
              added({token(300, "xx"), token(301, "xx")});
            }),
            "t: \"added_tokens\": \"xx\" stands twice");
  EXPECT_EQ(refusal([] {
              added({token(300, "xx"), token(300, "yy")});
            }),
            "t: \"added_tokens\": id 300 stands twice");
  EXPECT_EQ(refusal([] { added({token(0xE9, "é")}); }),
            "t: \"added_tokens\": \"é\" is in \"vocab\" the spelling of other bytes");
}

}  // namespace
}  // namespace fulgurite
