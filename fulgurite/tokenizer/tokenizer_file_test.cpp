#include "fulgurite/tokenizer/tokenizer_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/tokenizer/test_tokenizer.h"

namespace fulgurite {
namespace {

using testing::HasSubstr;

// The message for small_file() with one value changed.
std::string refused(const std::string& pointer, const char* value) {
  Json file = small_file();
  file[Json::json_pointer(pointer)] = Json::parse(value);
  return refusal([&] { read_tokenizer_file(file.dump(), "t"); });
}
std::string refused_without(const std::string& pointer) {
  Json file = small_file();
  const Json::json_pointer at(pointer);
  file[at.parent_pointer()].erase(at.back());
  return refusal([&] { read_tokenizer_file(file.dump(), "t"); });
}

TEST(tokenizer_file, says_what_the_file_says) {
  const TokenizerFile file = read_tokenizer_file(small_file().dump(), "t");
  EXPECT_EQ(file.model.vocabulary.size(), 259u);
  EXPECT_EQ(file.model.merges, small_model().merges);
  EXPECT_FALSE(file.model.ignore_merges);
  ASSERT_EQ(file.added_tokens.size(), 1u);
  EXPECT_EQ(file.added_tokens[0].content, "<s>");
  EXPECT_TRUE(file.added_tokens[0].special);
  ASSERT_EQ(file.splits.size(), 1u);
  EXPECT_EQ(file.splits[0].pattern, "\\s");
  EXPECT_EQ(file.splits[0].what, "t: \"pre_tokenizer\": \"pretokenizers\"[0]: \"pattern\"");
}

TEST(tokenizer_file, merges_are_strings_or_pairs) {
  Json file = small_file();
  file["model"]["merges"] = Json::parse(R"(["#version: 0.2", "a b", ["a b", "c"]])");
  const std::vector<std::pair<std::string, std::string>> merges{{"a", "b"}, {"a b", "c"}};
  EXPECT_EQ(read_tokenizer_file(file.dump(), "t").model.merges, merges);
  for (const char* bad : {R"("ab")", R"("a b c")", R"(["a"])", R"(["a", "b", "c"])", R"(["a", 1])", "1"})
    EXPECT_EQ(refused("/model/merges/1", bad),
              fmt::format("t: \"model\": \"merges\"[1]: expected \"a b\" or [\"a\", \"b\"], found {}",
                          Json::parse(bad).dump()));
}

TEST(tokenizer_file, features_that_change_nothing_are_accepted) {
  EXPECT_EQ(refused("/normalizer", R"({"type": "Sequence", "normalizers": []})"), "no error");
  EXPECT_EQ(refused("/post_processor", R"({"type": "ByteLevel", "trim_offsets": false})"), "no error");
  EXPECT_EQ(
      refused("/post_processor", R"({"type": "Sequence", "processors": [{"type": "TemplateProcessing"}]})"),
      "no error");
  EXPECT_EQ(
      refused("/pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"),
      "no error");
  EXPECT_EQ(refused("/model/continuing_subword_prefix", R"("")"), "no error");
  EXPECT_EQ(refused("/model/ignore_merges", "true"), "no error");
}

TEST(tokenizer_file, features_that_are_not_implemented_are_refused_by_name) {
  EXPECT_EQ(refused("/version", R"("2.0")"), "t: \"version\": \"2.0\" is not supported");
  EXPECT_EQ(refused("/truncation", R"({"max_length": 5})"),
            "t: \"truncation\": {\"max_length\":5} is not supported");
  EXPECT_EQ(refused("/padding", "{}"), "t: \"padding\": {} is not supported");
  EXPECT_EQ(refused("/novelty", "1"), "t: key \"novelty\" is not supported");
  EXPECT_EQ(refused("/normalizer", R"({"type": "NFC"})"), "t: \"normalizer\": type \"NFC\" is not supported");
  EXPECT_EQ(refused("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": "NFC"}]})"),
            "t: \"normalizer\": \"normalizers\"[0]: type \"NFC\" is not supported");
  EXPECT_EQ(refused("/post_processor", R"({"type": "BertProcessing"})"),
            "t: \"post_processor\": type \"BertProcessing\" is not supported");
  EXPECT_EQ(refused("/decoder", R"({"type": "WordPiece"})"),
            "t: \"decoder\": type \"WordPiece\" is not supported");
  EXPECT_EQ(refused("/model/type", R"("Unigram")"), "t: \"model\": type \"Unigram\" is not supported");
  EXPECT_EQ(refused("/model/dropout", "0.1"), "t: \"model\": \"dropout\": 0.1 is not supported");
  EXPECT_EQ(refused("/model/unk_token", R"("?")"), "t: \"model\": \"unk_token\": \"?\" is not supported");
  EXPECT_EQ(refused("/model/end_of_word_suffix", R"("x")"),
            "t: \"model\": \"end_of_word_suffix\": \"x\" is not supported");
  EXPECT_EQ(refused("/model/byte_fallback", "true"),
            "t: \"model\": \"byte_fallback\": true is not supported");
  EXPECT_EQ(refused("/model/fuse_unk", "true"), "t: \"model\": \"fuse_unk\": true is not supported");
}

TEST(tokenizer_file, pre_tokenizers_that_are_not_implemented_are_refused_by_name) {
  const std::string step = "/pre_tokenizer/pretokenizers/0", what = "t: \"pre_tokenizer\": \"pretokenizers\"";
  EXPECT_EQ(refused("/pre_tokenizer", R"({"type": "Metaspace"})"),
            "t: \"pre_tokenizer\": type \"Metaspace\" is not supported");
  EXPECT_EQ(refused("/pre_tokenizer", "null"), "t: \"pre_tokenizer\": expected an object, found null");
  EXPECT_EQ(refused("/pre_tokenizer", R"({"type": "ByteLevel", "add_prefix_space": false})"),
            "t: \"pre_tokenizer\": \"use_regex\" is not there: true is not supported");
  EXPECT_EQ(refused(step, R"({"type": "Digits"})"), what + "[0]: type \"Digits\" is not supported");
  EXPECT_EQ(refused(step + "/behavior", R"("Removed")"),
            what + "[0]: \"behavior\": \"Removed\" is not supported");
  EXPECT_EQ(refused(step + "/invert", "true"), what + "[0]: \"invert\": true is not supported");
  EXPECT_EQ(refused(step + "/pattern", R"({"Glob": "*"})"),
            what + "[0]: \"pattern\": expected one \"Regex\" or \"String\", found {\"Glob\":\"*\"}");
  EXPECT_EQ(refused("/pre_tokenizer/pretokenizers/1/add_prefix_space", "true"),
            what + "[1]: \"add_prefix_space\": true is not supported");
  EXPECT_THAT(refused("/pre_tokenizer/pretokenizers", "[]"),
              HasSubstr("expected \"ByteLevel\" as the last step"));
  EXPECT_EQ(refused(step, R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})"),
            what + "[0]: steps behind \"ByteLevel\" are not supported");
}

TEST(tokenizer_file, missing_and_mistyped_fields_are_named) {
  for (const char* key : {"version", "added_tokens", "pre_tokenizer", "decoder", "model"})
    EXPECT_EQ(refused_without(std::string("/") + key), fmt::format("t: key \"{}\" is missing", key));
  EXPECT_EQ(refused_without("/model/vocab"), "t: \"model\": key \"vocab\" is missing");
  EXPECT_EQ(refused_without("/model/merges"), "t: \"model\": key \"merges\" is missing");
  EXPECT_EQ(refused_without("/added_tokens/0/special"), "t: \"added_tokens\"[0]: key \"special\" is missing");
  EXPECT_EQ(refused("/model/merges", "{}"), "t: \"model\": \"merges\": expected an array, found {}");
  EXPECT_EQ(refused("/added_tokens/0", "3"), "t: \"added_tokens\"[0]: expected an object, found 3");
  EXPECT_EQ(refused("/added_tokens/0/content", R"("")"),
            "t: \"added_tokens\"[0]: \"content\": expected 1 to 1024 bytes, found \"\"");
  EXPECT_EQ(refused("/model/ignore_merges", "1"),
            "t: \"model\": \"ignore_merges\": expected true or false, found 1");
}

TEST(tokenizer_file, ids_are_whole_numbers_below_a_million) {
  for (const char* id : {"-1", "1048576", "1.5", "\"7\"", "null", "18446744073709551615"})
    EXPECT_EQ(
        refused("/model/vocab/abc", id),
        fmt::format("t: \"model\": \"vocab\": \"abc\": expected an integer in [0, 1048575], found {}", id));
  EXPECT_THAT(refused("/added_tokens/0/id", "-5"),
              HasSubstr("expected an integer in [0, 1048575], found -5"));
}

TEST(tokenizer_file, a_key_may_not_stand_twice) {
  EXPECT_THAT(refusal([] { read_tokenizer_file(R"({"version": "1.0", "version": "1.0"})", "t"); }),
              HasSubstr("key \"version\" stands twice"));
}

}  // namespace
}  // namespace fulgurite
