#include "fulgurite/tokenizer/byte_level_bpe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/tokenizer/test_tokenizer.h"

namespace fulgurite {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

std::vector<int32_t> encode(const BpeDescription& description, std::string_view piece) {
  std::vector<int32_t> ids;
  ByteLevelBpe(description, "m").encode(piece, ids);
  return ids;
}

std::string refused(const BpeDescription& description) {
  return refusal([&] { ByteLevelBpe(description, "m"); });
}

TEST(byte_level_bpe, each_byte_has_a_spelling_that_leads_back) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  EXPECT_EQ(byte_level_bytes(byte_level_spelling(all)), all);
  EXPECT_EQ(byte_level_spelling(std::string_view("\0 ~\x7F\xA0\xAD\xFF\n", 8)), "ĀĠ~ġłŃÿĊ");
  for (const char* foreign : {" ", "a b", "\u00A0", "\u00AD", "ń", "中", "x😀"})
    EXPECT_EQ(byte_level_bytes(foreign), std::nullopt);
}

TEST(byte_level_bpe, the_lowest_rank_merges_first) {
  EXPECT_THAT(encode(small_model(), "abc"), ElementsAre('a', 258));
  EXPECT_THAT(encode(small_model(), "abab"), ElementsAre(256, 256));
  EXPECT_THAT(encode(small_model(), ""), IsEmpty());
  BpeDescription other = small_model();
  other.merges = {{"a", "b"}, {"b", "c"}, {"ab", "c"}};
  EXPECT_THAT(encode(other, "abcbc"), ElementsAre(257, 258));
}

TEST(byte_level_bpe, of_equal_ranks_the_leftmost_merges_first) {
  BpeDescription model = small_model();
  model.vocabulary.emplace_back("aa", 259);
  model.merges = {{"a", "a"}};
  EXPECT_THAT(encode(model, "aaaaa"), ElementsAre(259, 259, 'a'));
}

TEST(byte_level_bpe, ignore_merges_takes_a_piece_that_is_a_token) {
  BpeDescription model = small_model();
  model.ignore_merges = true;
  EXPECT_THAT(encode(model, "abc"), ElementsAre(257));
  EXPECT_THAT(encode(model, "abca"), ElementsAre('a', 258, 'a'));
}

TEST(byte_level_bpe, a_token_outside_the_alphabet_is_its_own_text) {
  BpeDescription model = small_model();
  model.vocabulary.emplace_back("a b", 259);
  EXPECT_EQ(*ByteLevelBpe(model, "m").bytes_of(259), "a b");
}

TEST(byte_level_bpe, a_vocabulary_that_contradicts_itself_is_refused) {
  BpeDescription model = small_model();
  model.vocabulary.emplace_back("x\n", 256);
  EXPECT_EQ(refused(model), "m: \"vocab\": id 256 stands twice, the second time at \"x\\x0a\"");
  model = small_model();
  model.vocabulary.erase(model.vocabulary.begin() + ' ');
  EXPECT_EQ(refused(model), "m: \"vocab\": no token \"Ġ\", which spells the byte 0x20");
}

TEST(byte_level_bpe, merges_name_known_tokens_and_each_pair_once) {
  BpeDescription model = small_model();
  model.merges = {{"a", "b"}, {"zz", "b"}};
  EXPECT_EQ(refused(model), "m: \"merges\"[1]: \"zz\" is not in the vocabulary");
  model.merges = {{"a", "zz"}};
  EXPECT_EQ(refused(model), "m: \"merges\"[0]: \"zz\" is not in the vocabulary");
  model.merges = {{"c", "a"}};
  EXPECT_EQ(refused(model), "m: \"merges\"[0]: \"ca\" is not in the vocabulary");
  model.merges = {{"a", "b"}, {"b", "c"}, {"a", "b"}};
  EXPECT_EQ(refused(model), "m: \"merges\"[2]: \"a\" and \"b\" stand twice");
}

}  // namespace
}  // namespace fulgurite
