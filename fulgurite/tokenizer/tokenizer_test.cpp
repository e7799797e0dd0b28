#include "fulgurite/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/tokenizer/test_tokenizer.h"
#include "test/paths.h"

namespace fulgurite {
namespace {

using testing::ElementsAre;
using testing::ElementsAreArray;

Tokenizer tiny() {
  return Tokenizer::parse(repository_file("models/tiny-v32/tokenizer.json"), "tokenizer.json");
}
Tokenizer small() { return Tokenizer::parse(small_file().dump(), "t"); }

// The stream of golden/text/public.txt: each book between a begin and an end of sentence.
std::vector<int32_t> public_stream(const Tokenizer& tokenizer) {
  const std::string text = repository_file("golden/text/public.txt");
  const std::string separator = "<|doc|>";
  std::vector<int32_t> stream;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find(separator, at), text.size());
    const size_t first = text.find_first_not_of('\n', at);
    const size_t last = text.find_last_not_of('\n', end - 1);
    const std::vector<int32_t> book = tokenizer.encode(text.substr(first, last + 1 - first) + "\n\n");
    stream.push_back(0);
    stream.insert(stream.end(), book.begin(), book.end());
    stream.push_back(1);
    at = end + separator.size();
  }
  return stream;
}

TEST(tokenizer, public_text_has_the_ids_that_the_oracle_was_given) {
  const std::vector<int32_t> stream = public_stream(tiny());
  EXPECT_EQ(stream.size(), 108030u);
  const auto oracle =
      checkpoint::SafetensorsFile::open(std::string(test::kSourceDir) + "/golden/tiny-v32.safetensors");
  const size_t begins[] = {0, 5000, 20000, 40000};
  for (int sequence = 0; sequence < 4; ++sequence) {
    const auto ids = checkpoint::i32_values(oracle.require(fmt::format("seq{}.input_ids", sequence)));
    ASSERT_EQ(ids.size(), 512u);
    EXPECT_THAT(ids, ElementsAreArray(stream.data() + begins[sequence], ids.size()))
        << "sequence " << sequence;
  }
}

TEST(tokenizer, hard_texts_have_the_ids_of_the_hugging_face_library) {
  const Json file = Json::parse(repository_file("models/tiny-v32/tokenizer.json"));
  int cases = 0;
  for (const Json& set : Json::parse(repository_file("golden/tokenizer/hard_texts.json"))) {
    Json patched = file;
    patched.merge_patch(set["patch"]);
    const Tokenizer tokenizer = Tokenizer::parse(patched.dump(), "patched");
    for (const Json& golden : set["cases"]) {
      const auto text = golden["text"].get<std::string>();
      const auto ids = golden["ids"].get<std::vector<int32_t>>();
      ++cases;
      EXPECT_THAT(tokenizer.encode(text), ElementsAreArray(ids)) << set["name"] << ": " << golden["text"];
      if (set["patch"].contains("added_tokens")) continue;  // strips do not come back
      EXPECT_EQ(tokenizer.decode(ids), text);
    }
  }
  EXPECT_EQ(cases, 121);
}

TEST(tokenizer, any_text_comes_back) {
  const Tokenizer tokenizer = tiny();
  const std::vector<std::string> parts{"a",
                                       "the",
                                       " ",
                                       "\n",
                                       "\r",
                                       "7",
                                       "é",
                                       "\u0301",
                                       "中",
                                       "\u0378",
                                       "\U0010FFFF",
                                       ".",
                                       "😀",
                                       std::string(1, '\0'),
                                       "<｜begin▁of▁sentence｜>",
                                       "<｜",
                                       "｜>",
                                       "Ġ",
                                       "\u200d"};
  std::mt19937 random(1);
  for (int i = 0; i < 500; ++i) {
    std::string text;
    for (unsigned length = random() % 60; length > 0; --length) text += parts[random() % parts.size()];
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
}

// A quadratic step would take minutes, PCRE2's own limits would end the search of the white space.
TEST(tokenizer, a_long_run_of_one_character_is_like_any_text) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.encode(std::string(1'000'000, ' ')).size(), 62'500u);
  EXPECT_EQ(tokenizer.encode(std::string(1'000'000, ' ') + "x").size(), 62'504u);
  for (const char* part : {"a", "\n", " \n", "7", "!", "\u0378", "<｜"}) {
    std::string text;
    while (text.size() < 100'000) text += part;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text) << part;
  }
}

TEST(tokenizer, invalid_utf8_is_refused_with_its_offset) {
  const Tokenizer tokenizer = small();
  EXPECT_EQ(refusal([&] { tokenizer.encode("ab\xFFz"); }), "request: text: not valid UTF-8 at byte 2");
  EXPECT_EQ(refusal([&] { tokenizer.encode("é\xE4\xB8"); }), "request: text: not valid UTF-8 at byte 2");
  EXPECT_EQ(refusal([&] { tokenizer.encode("\xED\xA0\x80"); }), "request: text: not valid UTF-8 at byte 0");
}

TEST(tokenizer, special_tokens_are_found_in_text_and_kept_or_skipped_in_decoding) {
  const Tokenizer tokenizer = small();
  const std::vector<int32_t> ids = tokenizer.encode("a<s>abc<s");
  EXPECT_THAT(ids, ElementsAre('a', 259, 'a', 258, '<', 's'));
  EXPECT_EQ(tokenizer.decode(ids), "a<s>abc<s");
  EXPECT_EQ(tokenizer.decode(ids, SpecialTokens::kSkip), "aabc<s");
}

TEST(tokenizer, an_id_without_a_token_cannot_be_decoded) {
  Json file = small_file();
  file["added_tokens"][0]["id"] = 300;
  const Tokenizer tokenizer = Tokenizer::parse(file.dump(), "t");
  EXPECT_EQ(tokenizer.vocabulary(), 301);
  EXPECT_EQ(tokenizer.decode(std::vector<int32_t>{300}), "<s>");
  for (const int32_t id : {-1, 259, 299, 301, INT32_MAX, INT32_MIN})
    EXPECT_EQ(refusal([&] {
                tokenizer.decode({&id, 1});
              }),
              fmt::format("request: token {}: not in the vocabulary of 301 entries", id));
}

TEST(tokenizer, tokens_are_known_by_their_spelling) {
  const Tokenizer tokenizer = tiny();
  EXPECT_EQ(tokenizer.vocabulary(), 2048);
  EXPECT_EQ(tokenizer.id_of("<｜begin▁of▁sentence｜>"), 0);
  EXPECT_EQ(tokenizer.id_of("Ġthe"), 262);
  EXPECT_EQ(tokenizer.id_of(" the"), std::nullopt);
  EXPECT_TRUE(tokenizer.is_special(1));
  for (const int32_t id : {2, -1, 2048}) EXPECT_FALSE(tokenizer.is_special(id));
}

}  // namespace
}  // namespace fulgurite
