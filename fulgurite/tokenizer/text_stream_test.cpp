#include "fulgurite/tokenizer/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/tokenizer/test_tokenizer.h"

namespace fulgurite {
namespace {

using testing::ElementsAre;

// What each byte of `bytes` lets through, and what is left at the end.
std::vector<std::string> pushed(std::string_view bytes) {
  const Tokenizer tokenizer = Tokenizer::parse(small_file().dump(), "t");
  TextStream stream(tokenizer);
  std::vector<std::string> texts;
  for (const char byte : bytes) texts.push_back(stream.push(static_cast<unsigned char>(byte)));
  texts.push_back(stream.finish());
  EXPECT_EQ(stream.finish(), "");
  return texts;
}

TEST(text_stream, a_character_waits_until_it_is_whole) {
  EXPECT_THAT(pushed("aé"), ElementsAre("a", "", "é", ""));
  EXPECT_THAT(pushed("😀b"), ElementsAre("", "", "", "😀", "b", ""));
}

TEST(text_stream, what_becomes_no_character_is_replaced) {
  EXPECT_THAT(pushed("\xFF\x80"), ElementsAre("\uFFFD", "\uFFFD", ""));
  EXPECT_THAT(pushed("\xE4\xB8"), ElementsAre("", "", "\uFFFD"));
  EXPECT_THAT(pushed("\xE4\xB8z"), ElementsAre("", "", "\uFFFDz", ""));
  EXPECT_THAT(pushed("\xF0\x9F\x98\xC3\xA9"), ElementsAre("", "", "", "\uFFFD", "é", ""));
  EXPECT_THAT(pushed("\xED\xA0\x80"), ElementsAre("", "\uFFFD\uFFFD", "\uFFFD", ""));
}

TEST(text_stream, special_tokens_are_kept_or_skipped) {
  const Tokenizer tokenizer = Tokenizer::parse(small_file().dump(), "t");
  EXPECT_EQ(TextStream(tokenizer).push(259), "<s>");
  TextStream skipping(tokenizer, SpecialTokens::kSkip);
  for (const int32_t id : {0xC3, 259}) EXPECT_EQ(skipping.push(id), "");
  EXPECT_EQ(skipping.push(0xA9), "é");
}

}  // namespace
}  // namespace fulgurite
