#include "fulgurite/tokenizer/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "fulgurite/tokenizer/test_tokenizer.h"

namespace fulgurite {
namespace {

using testing::ElementsAre;
using testing::EndsWith;
using testing::HasSubstr;
using testing::StartsWith;

PreTokenizer regexes(const std::vector<std::string>& patterns) {
  std::vector<SplitStep> steps;
  for (const std::string& pattern : patterns) steps.push_back({pattern, SplitStep::Kind::kRegex, "p"});
  return PreTokenizer(steps);
}

std::vector<std::string> split(const std::vector<std::string>& patterns, std::string_view text) {
  std::vector<std::string> pieces;
  for (const std::string_view piece : regexes(patterns).split(text)) pieces.emplace_back(piece);
  return pieces;
}

std::string refused(const std::string& pattern) {
  return refusal([&] { regexes({pattern}); });
}

TEST(pre_tokenizer, matches_and_gaps_are_pieces) {
  EXPECT_THAT(split({R"(\p{N}{1,3})"}, "a12345b"), ElementsAre("a", "123", "45", "b"));
  EXPECT_THAT(split({"x"}, "ab"), ElementsAre("ab"));
  EXPECT_THAT(split({"x"}, ""), ElementsAre());
  EXPECT_THAT(split({}, "a b"), ElementsAre("a b"));
}

TEST(pre_tokenizer, each_step_cuts_the_pieces_of_the_one_before) {
  EXPECT_THAT(split({R"(\p{N}+)", "[a-c]+"}, "xab12cy"), ElementsAre("x", "ab", "12", "c", "y"));
}

TEST(pre_tokenizer, look_ahead_ends_with_the_piece) {
  const std::string spaces = R"(\s+(?!\S)|\s+)";
  EXPECT_THAT(split({spaces}, "a   7"), ElementsAre("a", "  ", " ", "7"));
  EXPECT_THAT(split({R"(\p{N}+)", spaces}, "a   7"), ElementsAre("a", "   ", "7"));
}

TEST(pre_tokenizer, plain_text_has_no_special_characters) {
  const PreTokenizer step({{"(.é", SplitStep::Kind::kText, "p"}});
  EXPECT_THAT(step.split("a(.éb(xé"), ElementsAre("a", "(.é", "b(xé"));
}

TEST(pre_tokenizer, white_space_is_that_of_unicode) {
  for (const char* space :
       {"\t", "\x0b", "\u0085", "\u00a0", "\u1680", "\u2000", "\u200a", "\u2028", "\u202f", "\u3000"})
    EXPECT_THAT(split({R"(\s)"}, std::string(space) + "x"), ElementsAre(space, "x"));
  for (const char* other : {"\u180e", "\u200b", "\u2060", "\ufeff", "\x1c"})
    EXPECT_THAT(split({R"(\S+)"}, std::string(other) + "x "), ElementsAre(std::string(other) + "x", " "));
}

TEST(pre_tokenizer, properties_are_those_of_unicode_16) {
  const std::pair<const char*, const char*> newer[] = {{"L", "\U00031350"}, {"M", "\U0001E4EC"},
                                                       {"N", "\U00010D40"}, {"N", "\U0001D2C0"},
                                                       {"P", "\U00011F43"}, {"S", "\U0001FA77"}};
  for (const auto& [category, character] : newer) {
    EXPECT_THAT(split({fmt::format("[\\p{{{}}}]", category)}, std::string(character) + "\u0378"),
                ElementsAre(character, "\u0378"));
    EXPECT_THAT(split({fmt::format("\\P{{{}}}", category)}, std::string(character) + "\u0378"),
                ElementsAre(character, "\u0378"));
    EXPECT_THAT(split({fmt::format("\\P{{{}}}+", category)}, std::string("\u0378") + character),
                ElementsAre("\u0378", character));
  }
}

TEST(pre_tokenizer, a_second_letter_is_not_asked_for) {  // PCRE2's start optimization would
  EXPECT_THAT(split({R"((?=b)(?:ab|b)\S)"}, " bx"), ElementsAre(" ", "bx"));
}

TEST(pre_tokenizer, a_broken_pattern_is_named_with_its_offset) {
  EXPECT_EQ(refused("a[b"), "p: \"a[b\": missing terminating ] for character class at offset 3");
  EXPECT_THAT(refused("(a"), EndsWith("missing closing parenthesis at offset 2"));
  EXPECT_THAT(refused("a{3,2}"), HasSubstr("out of order"));
  EXPECT_THAT(refused(R"(\p{Nonsense})"), HasSubstr("unknown property"));
  EXPECT_THAT(refused(std::string(5000, 'a')),
              EndsWith("a pattern of 5000 bytes, at most 4096 are supported"));
  EXPECT_THAT(refused(std::string(40, '(') + "a" + std::string(40, ')')),
              HasSubstr("too deeply nested at offset 33"));
  EXPECT_EQ(refused("a*"), "p: \"a*\": a pattern that matches the empty string is not supported");
}

TEST(pre_tokenizer, what_means_something_else_to_the_other_engine_is_refused) {
  EXPECT_EQ(refused(R"(a|\h+)"), R"(p: "a|\h+": \h at offset 2 is not supported)");
  for (const char* pattern :
       {R"(\w)",   R"(\d)",       R"(\bx)",    R"(x\z)",     R"(\x41)",   R"((a)\1)",    R"(\R)",   "^a",
        "a$",      "a{1,2}+",     "a{2}?",     "a{,3}",      "a{",        "[[:alpha:]]", "[a&&b]",  "[a[b]]",
        R"([\S])", R"([^\P{L}])", R"(\p{Lu})", R"(\p{Han})", R"(\p{^L})", "(?<=a)b",     "(?<n>a)", "(?m:a.)",
        "(?i)a",   "(?i:ss)",     "(?i:Fi)",   "(?i:é)",     "(?#c)a",    "a]",          "]"})
    EXPECT_THAT(refused(pattern), EndsWith("is not supported")) << pattern;
}

TEST(pre_tokenizer, a_search_that_explodes_is_an_error) {
  const PreTokenizer step = regexes({"(?:a|aa)+b"});
  EXPECT_THAT(refusal([&] { step.split(std::string(200, 'a')); }),
              StartsWith("request: p: a text of 200 bytes cannot be searched"));
}

}  // namespace
}  // namespace fulgurite
