#include "fulgurite/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "fulgurite/checkpoint/test_files.h"

namespace fulgurite::checkpoint {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;
using testing::StartsWith;

std::string refused(std::string_view header, size_t data_bytes) {
  const std::string file = safetensors_bytes(header, std::string(data_bytes, '\0'));
  return refusal([&] { parse_header(bytes_of(file), "f"); });
}

std::vector<std::string> names(std::span<const TensorView> tensors) {
  std::vector<std::string> names;
  for (const TensorView& tensor : tensors) names.push_back(tensor.name);
  return names;
}

TEST(safetensors, tensors_are_views_in_the_order_of_their_bytes) {
  const std::string file = safetensors_bytes(
      R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[4,7]},"z":{"dtype":"BF16","shape":[2,1],"data_offsets":[0,4]}} )",
      "wxyzabc");
  const Header header = parse_header(bytes_of(file), "f");
  ASSERT_THAT(names(header.tensors), ElementsAre("z", "a"));
  EXPECT_EQ(header.tensors[0].dtype, DType::kBF16);
  EXPECT_THAT(header.tensors[0].shape, ElementsAre(2, 1));
  EXPECT_EQ(header.tensors[1].bytes.data(), bytes_of(file).data() + file.size() - 3);
  EXPECT_EQ(header.tensors[1].bytes.size(), 3u);
}

TEST(safetensors, scalars_and_empty_tensors_are_tensors) {
  const std::string file = safetensors_bytes(
      R"({"s":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"e":{"dtype":"F64","shape":[2,0],"data_offsets":[4,4]},)"
      R"("d":{"dtype":"F4","shape":[0],"data_offsets":[4,4]},"t":{"dtype":"U8","shape":[1],"data_offsets":[4,5]}})",
      "fffft");
  const Header header = parse_header(bytes_of(file), "f");
  EXPECT_THAT(names(header.tensors), ElementsAre("s", "d", "e", "t"));
  EXPECT_THAT(header.tensors[0].shape, IsEmpty());
}

TEST(safetensors, a_file_without_tensors_is_legal) {
  EXPECT_THAT(parse_header(bytes_of(safetensors_bytes("{}      ", "")), "f").tensors, IsEmpty());
}

TEST(safetensors, metadata_maps_text_to_text) {
  const std::string file = safetensors_bytes(R"({"__metadata__":{"format":"pt","by":"me"}})", "");
  EXPECT_THAT(parse_header(bytes_of(file), "f").metadata,
              ElementsAre(Pair("by", "me"), Pair("format", "pt")));
}

TEST(safetensors, metadata_of_other_kinds_is_refused) {
  EXPECT_EQ(refused(R"({"__metadata__":{"n":1}})", 0), "f: __metadata__: \"n\": expected a string, found 1");
  EXPECT_EQ(refused(R"({"__metadata__":["n"]})", 0), "f: __metadata__: expected an object, found [\"n\"]");
}

TEST(safetensors, a_file_too_short_for_its_header_is_refused) {
  const auto whole = [](const std::string& file) {
    return refusal([&] { parse_header(bytes_of(file), "f"); });
  };
  EXPECT_EQ(whole(""), "f: expected a safetensors file, found an empty file");
  EXPECT_EQ(whole("1234567"), "f: expected the 8-byte length of a header, found 7 bytes");
  EXPECT_EQ(whole(std::string("\3\0\0\0\0\0\0\0{}", 10)),
            "f: a header of 3 bytes, the file has 2 bytes after its length");
  EXPECT_EQ(whole("\xff\xff\xff\xff\xff\xff\xff\xff{}"),
            "f: a header of 18446744073709551615 bytes, the format allows 100000000");
  EXPECT_EQ(whole(std::string("\0\0\0\0\0\0\0\0{}", 10)), "f: the header does not begin with a brace");
}

TEST(safetensors, the_format_allows_headers_of_100_million_bytes_and_no_more) {
  std::string file = safetensors_bytes("{}" + std::string(kLargestHeaderBytes - 2, ' '), "");
  EXPECT_THAT(parse_header(bytes_of(file), "f").tensors, IsEmpty());
  file = safetensors_bytes("{}" + std::string(kLargestHeaderBytes - 1, ' '), "");
  EXPECT_EQ(refusal([&] { parse_header(bytes_of(file), "f"); }),
            "f: a header of 100000001 bytes, the format allows 100000000");
}

TEST(safetensors, a_header_that_is_no_strict_json_object_is_refused) {
  EXPECT_EQ(refused(" {}", 0), "f: the header does not begin with a brace");
  EXPECT_EQ(refused("[]", 0), "f: the header does not begin with a brace");
  EXPECT_THAT(refused("{", 0), StartsWith("f: not valid JSON"));
  EXPECT_THAT(refused("{} {}", 0), StartsWith("f: not valid JSON"));
  EXPECT_THAT(refused(std::string_view("{}\0{}", 5), 0), StartsWith("f: not valid JSON"));
  EXPECT_THAT(refused("{\"\xff\":0}", 0), StartsWith("f: not valid JSON"));
}

TEST(safetensors, a_name_that_stands_twice_is_refused) {
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                    R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                    2),
            "f: key \"a\" stands twice");
}

TEST(safetensors, an_entry_has_exactly_its_three_keys) {
  EXPECT_EQ(refused(R"({"a":7})", 0), "f: tensor \"a\": expected an object, found 7");
  EXPECT_EQ(refused(R"({"a":{"shape":[1],"data_offsets":[0,1]}})", 1),
            "f: tensor \"a\": key \"dtype\" is missing");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","data_offsets":[0,1]}})", 1),
            "f: tensor \"a\": key \"shape\" is missing");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[1]}})", 1),
            "f: tensor \"a\": key \"data_offsets\" is missing");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"b":0}})", 1),
            "f: tensor \"a\": unknown key \"b\"");
}

TEST(safetensors, a_dtype_that_the_format_does_not_know_is_refused) {
  EXPECT_EQ(refused(R"({"a":{"dtype":"f32","shape":[1],"data_offsets":[0,4]}})", 4),
            "f: tensor \"a\": unknown dtype \"f32\"");
  EXPECT_EQ(refused(R"({"a":{"dtype":32,"shape":[1],"data_offsets":[0,4]}})", 4),
            "f: tensor \"a\": dtype: expected a string, found 32");
}

TEST(safetensors, shapes_are_lists_of_natural_numbers) {
  const auto with_shape = [](const std::string& shape) {
    return refused(R"({"a":{"dtype":"U8","data_offsets":[0,1],"shape":)" + shape + "}}", 1);
  };
  EXPECT_EQ(with_shape("1"), "f: tensor \"a\": shape: expected an array, found 1");
  EXPECT_EQ(with_shape("[-1]"), "f: tensor \"a\": shape: expected integers of 0 to 2^63 - 1, found -1");
  EXPECT_EQ(with_shape("[1.0]"), "f: tensor \"a\": shape: expected integers of 0 to 2^63 - 1, found 1.0");
  EXPECT_EQ(with_shape("[true]"), "f: tensor \"a\": shape: expected integers of 0 to 2^63 - 1, found true");
  EXPECT_EQ(with_shape("[9223372036854775808]"),
            "f: tensor \"a\": shape: expected integers of 0 to 2^63 - 1, found 9223372036854775808");
}

TEST(safetensors, a_shape_whose_size_overflows_is_refused) {
  // 2^32 * 2^32 * 1 byte is 0 in 64 bits, what the offsets say.
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0),
            "f: tensor \"a\": U8 [4294967296, 4294967296] has a size beyond 63 bits");
}

TEST(safetensors, small_elements_must_fill_whole_bytes) {
  EXPECT_EQ(refused(R"({"a":{"dtype":"F4","shape":[3],"data_offsets":[0,1]}})", 1),
            "f: tensor \"a\": F4 [3] needs 12 bits, not a whole number of bytes");
}

TEST(safetensors, offsets_are_a_range_inside_the_data) {
  const auto with_offsets = [](const std::string& offsets) {
    return refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + offsets + "}}", 4);
  };
  EXPECT_EQ(with_offsets("[0]"), "f: tensor \"a\": data_offsets: expected [begin, end], found [0]");
  EXPECT_EQ(with_offsets("[0,4,4]"), "f: tensor \"a\": data_offsets: expected [begin, end], found [0,4,4]");
  EXPECT_EQ(with_offsets("{\"0\":4}"), "f: tensor \"a\": data_offsets: expected an array, found {\"0\":4}");
  EXPECT_EQ(with_offsets("[-4,0]"),
            "f: tensor \"a\": data_offsets: expected integers of 0 to 2^63 - 1, found -4");
  EXPECT_EQ(with_offsets("[4,0]"), "f: tensor \"a\": data_offsets [4, 0] end before they begin");
  EXPECT_EQ(with_offsets("[1,5]"), "f: tensor \"a\": data_offsets [1, 5] leave the file's 4 bytes of data");
}

TEST(safetensors, offsets_must_hold_what_dtype_and_shape_need) {
  EXPECT_EQ(refused(R"({"a.b":{"dtype":"F32","shape":[3,9],"data_offsets":[0,96]}})", 96),
            "f: tensor \"a.b\": data_offsets [0, 96] hold 96 bytes, F32 [3, 9] needs 108");
}

TEST(safetensors, overlapping_tensors_are_refused) {
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
                    R"("b":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}})",
                    4),
            "f: tensor \"b\": data_offsets [2, 4] overlap [0, 3] of tensor \"a\"");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                    R"("b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
                    4),
            "f: tensor \"b\": data_offsets [2, 2] overlap [0, 4] of tensor \"a\"");
}

TEST(safetensors, bytes_that_belong_to_no_tensor_are_refused) {
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[1,4]}})", 4),
            "f: bytes [0, 1] of the data, before tensor \"a\", belong to no tensor");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                    R"("b":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
                    4),
            "f: bytes [1, 3] of the data, before tensor \"b\", belong to no tensor");
  EXPECT_EQ(refused(R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", 4),
            "f: bytes [3, 4] at the end of the data belong to no tensor");
  EXPECT_EQ(refused("{}", 1), "f: bytes [0, 1] at the end of the data belong to no tensor");
}

TEST(safetensors, names_from_the_file_cannot_break_a_message) {
  EXPECT_EQ(refused(R"({"a\n\u0000":7})", 0), "f: tensor \"a\\x0a\\x00\": expected an object, found 7");
  EXPECT_LT(refused("{\"" + std::string(10000, 'a') + "\":7}", 0).size(), 200u);
}

TEST(safetensors, a_header_of_odd_length_makes_tensors_misaligned) {
  const TemporaryDirectory directory;
  const std::string header = R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})";
  for (size_t padding = 0; padding < 4; ++padding) {
    const std::string padded = header + std::string(padding, ' ');
    const auto file = SafetensorsFile::open(directory.write("f", safetensors_bytes(padded, "1234")));
    EXPECT_EQ(aligned(file.require("a")), padded.size() % 4 == 0) << padding;
  }
}

TEST(safetensors, an_open_file_finds_tensors_by_their_whole_name) {
  const TemporaryDirectory directory;
  const auto path =
      directory.write("f", safetensors_bytes(R"({"ab":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                             R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})",
                                             "xy"));
  SafetensorsFile opened = SafetensorsFile::open(path);
  const SafetensorsFile file = std::move(opened);
  EXPECT_THAT(names(file.tensors()), ElementsAre("ab", "a"));
  ASSERT_NE(file.find("a"), nullptr);
  EXPECT_EQ(file.find("a")->bytes[0], std::byte{'y'});
  EXPECT_EQ(file.find("ab")->bytes[0], std::byte{'x'});
  EXPECT_EQ(file.find("abc"), nullptr);
  EXPECT_EQ(file.find(""), nullptr);
  EXPECT_EQ(refusal([&] { file.require("b"); }), path.string() + ": there is no tensor \"b\"");
}

TEST(safetensors, a_refused_file_is_named_by_its_path) {
  const TemporaryDirectory directory;
  const auto path = directory.write("f", "");
  EXPECT_EQ(refusal([&] { SafetensorsFile::open(path); }),
            path.string() + ": expected a safetensors file, found an empty file");
}

}  // namespace
}  // namespace fulgurite::checkpoint
