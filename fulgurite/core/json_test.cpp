#include "fulgurite/core/json.h"

#include <gtest/gtest.h>

#include "fulgurite/core/utf8.h"
#include "test/op_test.h"

namespace fulgurite {
namespace {

std::string refusal_of(std::string_view text) {
  return test::message_of([&] { parse_json(text, "file.json", ErrorKind::kConfig); });
}

TEST(json, plain_text_is_read) {
  EXPECT_EQ(parse_json("{\"a\": [1, 2.5, null]}", "x", ErrorKind::kConfig)["a"].size(), 3u);
}

TEST(json, a_key_that_stands_twice_is_refused_at_any_depth) {
  EXPECT_EQ(refusal_of("{\"a\":1,\"a\":2}"), "file.json: key \"a\" stands twice");
  EXPECT_EQ(refusal_of("{\"x\":[{\"b\":1,\"c\":{},\"b\":2}]}"), "file.json: key \"b\" stands twice");
  EXPECT_EQ(refusal_of("{\"a\":{\"b\":1},\"c\":{\"b\":2}}"), "");
}

TEST(json, what_is_no_json_is_refused_in_one_line) {
  for (const char* const text :
       {"", "{", "{}x", "nul", "{\"a\":01}", "[1,]", "\xEF\xBB\xBF[1", "\"\xC3\x28\"", "{\"a\n\":}"}) {
    const std::string message = refusal_of(text);
    EXPECT_TRUE(message.starts_with("file.json: not valid JSON")) << text << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  EXPECT_NE(refusal_of(std::string_view("{}\0x", 4)), "") << "a NUL byte does not end the text";
}

TEST(json, nesting_has_a_limit) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') + std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_EQ(refusal_of(nested(60)), "");
  EXPECT_EQ(refusal_of(nested(70)), "file.json: nested deeper than 64 levels");
  EXPECT_NE(refusal_of(nested(1000000)), "");
}

TEST(json, fields_name_file_key_and_both_sides) {
  const Json json = parse_json("{\"n\":3,\"t\":\"x\",\"f\":1.5,\"b\":true,\"z\":null,\"o\":{\"k\":-1}}",
                               "c.json", ErrorKind::kConfig);
  const Fields fields(json, "c.json");
  EXPECT_EQ(fields.integer("n", 0, 3), 3);
  EXPECT_EQ(fields.number("f", 0, 2), 1.5);
  EXPECT_EQ(fields.number("n", 0, 3), 3.0);
  EXPECT_TRUE(fields.boolean("b"));
  EXPECT_FALSE(fields.has("z"));
  const auto message = [&](auto read) { return test::message_of([&] { read(); }); };
  EXPECT_EQ(message([&] { fields.integer("n", 4, 5); }),
            "c.json: \"n\": expected an integer in [4, 5], found 3");
  EXPECT_EQ(message([&] { fields.integer("f", 0, 5); }),
            "c.json: \"f\": expected an integer in [0, 5], found 1.5");
  EXPECT_EQ(message([&] { fields.text("n"); }), "c.json: \"n\": expected a string, found 3");
  EXPECT_EQ(message([&] { fields.boolean("n"); }), "c.json: \"n\": expected true or false, found 3");
  EXPECT_EQ(message([&] { fields.integer("m", 0, 1); }), "c.json: key \"m\" is missing");
  EXPECT_EQ(message([&] { fields.object("o").integer("k", 0, 1); }),
            "c.json: \"o\": \"k\": expected an integer in [0, 1], found -1");
}

TEST(printable, control_bytes_and_broken_utf8_are_escaped_and_length_is_limited) {
  EXPECT_EQ(printable("a\nb\x01\x7F"), "a\\x0ab\\x01\\x7f");
  EXPECT_EQ(printable("\xC3\x28"), "\\xc3(");
  EXPECT_EQ(printable("h\xC3\xA9"), "h\xC3\xA9");
  EXPECT_EQ(printable(std::string(500, 'x')).size(), 123u);
}

TEST(utf8, overlong_forms_surrogates_and_what_lies_above_unicode_are_refused) {
  for (const char* const good :
       {"A", "\xC2\x80", "\xE0\xA0\x80", "\xED\x9F\xBF", "\xF0\x90\x80\x80", "\xF4\x8F\xBF\xBF"})
    EXPECT_EQ(utf8_sequence_length(good), std::string_view(good).size()) << good;
  for (const char* const bad : {"\x80", "\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                                "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xC3"})
    EXPECT_EQ(utf8_sequence_length(bad), 0u) << bad;
  EXPECT_EQ(utf8_valid_prefix("ab\xFFz"), 2u);
  EXPECT_EQ(utf8_incomplete_tail("a\xE2\x82"), 2u);
  EXPECT_EQ(utf8_incomplete_tail("a\xE2\x28"), 0u);
}

}  // namespace
}  // namespace fulgurite
