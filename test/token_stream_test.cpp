#include "tool/token_stream.h"

#include <gtest/gtest.h>

#include "test/op_test.h"
#include "test/tiny_model.h"

namespace fulgurite::tool {
namespace {

using Documents = std::vector<std::string>;

TEST(token_stream, documents_are_split_at_separator_lines_and_end_with_two_newlines) {
  EXPECT_EQ(split_documents("a\nb\n\nc\n<|doc|>\nd"), (Documents{"a\nb\n\nc\n\n", "d\n\n"}));
  EXPECT_EQ(split_documents("a\n\n\n\nb\n\n"), Documents{"a\n\nb\n\n"});
  EXPECT_EQ(split_documents("<|doc|>\n\n<|doc|>\n"), Documents{});
  EXPECT_EQ(split_documents("a <|doc|>"), Documents{"a <|doc|>\n\n"}) << "a separator is a whole line";
}

TEST(token_stream, line_ends_of_two_bytes_and_a_byte_order_mark_are_no_text) {
  EXPECT_EQ(split_documents("\xEF\xBB\xBF"
                            "a\r\n\r\nb\r\n<|doc|>\r\nc"),
            (Documents{"a\n\nb\n\n", "c\n\n"}));
}

TEST(token_stream, each_document_stands_between_its_marks_as_in_the_oracle) {
  const test::TinyModel tiny;
  const Tokenizer tokenizer = Tokenizer::parse(tiny.checkpoint.tokenizer_text(), "tokenizer.json");
  const checkpoint::MappedFile text(test::kSource + "/golden/text/public.txt");
  const std::vector<int32_t> stream = token_stream(text.text(), "public.txt", tokenizer, tiny.model.config);
  for (const auto& [sequence, first] : {std::pair{0, 0}, {1, 5000}, {2, 20000}, {3, 40000}})
    EXPECT_TRUE(
        std::equal(stream.begin() + first, stream.begin() + first + 512, test::golden_ids(sequence).begin()))
        << sequence;
}

TEST(token_stream, text_that_is_no_utf8_is_refused_with_its_place) {
  const test::TinyModel tiny;
  const Tokenizer tokenizer = Tokenizer::parse(tiny.checkpoint.tokenizer_text(), "tokenizer.json");
  EXPECT_EQ(test::message_of([&] { token_stream("ab\xFF", "x.txt", tokenizer, tiny.model.config); }),
            "x.txt: expected UTF-8, found byte 0xff at offset 2");
}

}  // namespace
}  // namespace fulgurite::tool
