#include "fulgurite/checkpoint/writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <iterator>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "fulgurite/checkpoint/safetensors.h"
#include "fulgurite/checkpoint/test_files.h"

namespace fulgurite::checkpoint {
namespace {

using testing::ElementsAre;
using testing::Pair;

constexpr std::array kEveryDType{
    DType::kBool,    DType::kF4,      DType::kF6_E2M3, DType::kF6_E3M2,     DType::kU8,          DType::kI8,
    DType::kF8_E5M2, DType::kF8_E4M3, DType::kF8_E8M0, DType::kF8_E4M3FNUZ, DType::kF8_E5M2FNUZ, DType::kI16,
    DType::kU16,     DType::kF16,     DType::kBF16,    DType::kI32,         DType::kU32,         DType::kF32,
    DType::kC64,     DType::kF64,     DType::kI64,     DType::kU64,
};
static_assert(kEveryDType.size() == static_cast<size_t>(DType::kU64) + 1);

size_t files_in(const TemporaryDirectory& directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory.path()), {}));
}

std::string message_of_write(const TensorView& tensor,
                             const std::map<std::string, std::string>& metadata = {}) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "f";
  const std::string message = refusal([&] { write_safetensors(path, std::span(&tensor, 1), metadata); });
  EXPECT_EQ(files_in(directory), 0u);
  EXPECT_THAT(message, testing::StartsWith(path.string()));
  return message.substr(std::min(message.size(), path.string().size()));
}

TEST(writer, the_bytes_are_those_of_the_format) {
  const TemporaryDirectory directory;
  const std::vector<TensorView> tensors{{"b", DType::kU8, {3}, bytes_of("xyz")},
                                        {"c", DType::kU16, {1, 2}, bytes_of("1234")},
                                        {"a", DType::kU16, {}, bytes_of("ab")}};
  write_safetensors(directory.path() / "f", tensors, {{"format", "pt"}});
  const std::string header =
      R"({"__metadata__":{"format":"pt"},"a":{"dtype":"U16","shape":[],"data_offsets":[0,2]},)"
      R"("c":{"dtype":"U16","shape":[1,2],"data_offsets":[2,6]},"b":{"dtype":"U8","shape":[3],"data_offsets":[6,9]}})";
  const std::string padded = header + std::string((8 - header.size() % 8) % 8, ' ');
  EXPECT_EQ(MappedFile(directory.path() / "f").text(), safetensors_bytes(padded, "ab1234xyz"));
}

TEST(writer, tensors_made_while_writing_give_the_same_file) {
  const TemporaryDirectory directory;
  const std::vector<TensorView> tensors{{"b", DType::kU8, {3}, bytes_of("xyz")},
                                        {"a", DType::kU16, {2}, bytes_of("1234")},
                                        {"none", DType::kU8, {0}, {}}};
  const std::vector<PlannedTensor> planned{
      {"b", DType::kU8, {3}}, {"a", DType::kU16, {2}}, {"none", DType::kU8, {0}}};
  std::vector<size_t> made;
  write_safetensors(directory.path() / "whole", tensors);
  write_safetensors(directory.path() / "pieces", planned, [&](size_t i, const Sink& sink) {
    made.push_back(i);
    for (size_t at = 0; at < tensors[i].bytes.size(); ++at) sink(tensors[i].bytes.subspan(at, 1));
  });
  EXPECT_THAT(made, ElementsAre(1, 0, 2));
  EXPECT_EQ(MappedFile(directory.path() / "pieces").text(), MappedFile(directory.path() / "whole").text());
}

TEST(writer, a_tensor_of_too_few_or_too_many_bytes_leaves_no_file) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "f";
  const std::vector<PlannedTensor> planned{{"a", DType::kU8, {3}}};
  for (const std::string given : {"12", "1234"})
    EXPECT_EQ(refusal([&] {
                write_safetensors(path, planned, [&](size_t, const Sink& sink) { sink(bytes_of(given)); });
              }),
              fmt::format("{}: tensor \"a\": given {} bytes, U8 [3] needs 3", path.string(), given.size()));
  EXPECT_EQ(files_in(directory), 0u);
}

TEST(writer, a_text_is_written_as_it_is) {
  const TemporaryDirectory directory;
  write_text(directory.path() / "f", "{\"a\": 1}\n");
  EXPECT_EQ(MappedFile(directory.path() / "f").text(), "{\"a\": 1}\n");
  EXPECT_EQ(files_in(directory), 1u);
}

TEST(writer, every_dtype_comes_back_aligned) {
  const TemporaryDirectory directory;
  std::string data(24 * 8, '\0');
  std::iota(data.begin(), data.end(), '\1');
  std::vector<TensorView> tensors;
  for (const DType dtype : kEveryDType) {
    const std::string suffix(name(dtype));
    const auto bytes = bytes_of(data).first(static_cast<size_t>(3 * bits(dtype)));
    tensors.push_back({"full." + suffix, dtype, {3, 4, 2}, bytes});
    tensors.push_back({"empty." + suffix, dtype, {5, 0}, {}});
    if (bits(dtype) >= 8) tensors.push_back({"scalar." + suffix, dtype, {}, bytes.first(bytes.size() / 24)});
  }
  write_safetensors(directory.path() / "f", tensors, {{"a \"key\"\n", "a v\xc3\xa4lue"}});

  const SafetensorsFile file = SafetensorsFile::open(directory.path() / "f");
  EXPECT_THAT(file.metadata(), ElementsAre(Pair("a \"key\"\n", "a v\xc3\xa4lue")));
  ASSERT_EQ(file.tensors().size(), tensors.size());
  for (const TensorView& expected : tensors) {
    const TensorView& actual = file.require(expected.name);
    EXPECT_EQ(actual.dtype, expected.dtype) << expected.name;
    EXPECT_EQ(actual.shape, expected.shape) << expected.name;
    EXPECT_TRUE(std::ranges::equal(actual.bytes, expected.bytes)) << expected.name;
    EXPECT_TRUE(aligned(actual)) << expected.name;
  }
}

TEST(writer, no_tensors_make_a_legal_file) {
  const TemporaryDirectory directory;
  write_safetensors(directory.path() / "f", {});
  EXPECT_EQ(MappedFile(directory.path() / "f").text(), safetensors_bytes("{}      ", ""));
}

TEST(writer, a_file_is_replaced_and_its_old_mapping_stays) {
  const TemporaryDirectory directory;
  const MappedFile old(directory.write("f", "old"));
  write_safetensors(directory.path() / "f", {});
  EXPECT_EQ(old.text(), "old");
  EXPECT_TRUE(SafetensorsFile::open(directory.path() / "f").tensors().empty());
  EXPECT_EQ(files_in(directory), 1u);
}

TEST(writer, a_name_that_stands_twice_is_refused) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "f";
  const std::vector<TensorView> tensors{{"a", DType::kU8, {1}, bytes_of("x")},
                                        {"a", DType::kU16, {1}, bytes_of("xy")}};
  EXPECT_EQ(refusal([&] { write_safetensors(path, tensors); }),
            path.string() + ": tensor \"a\": the name is taken");
  EXPECT_EQ(files_in(directory), 0u);
  EXPECT_EQ(message_of_write({"__metadata__", DType::kU8, {1}, bytes_of("x")}),
            ": tensor \"__metadata__\": the name is taken");
}

TEST(writer, bytes_that_disagree_with_dtype_and_shape_are_refused) {
  EXPECT_EQ(message_of_write({"a", DType::kU16, {2}, bytes_of("xyz")}),
            ": tensor \"a\": given 3 bytes, U16 [2] needs 4");
  EXPECT_EQ(message_of_write({"a", DType::kF4, {1}, bytes_of("x")}),
            ": tensor \"a\": F4 [1] needs 4 bits, not a whole number of bytes");
  EXPECT_EQ(message_of_write({"a", DType::kU8, {-1}, bytes_of("x")}),
            ": tensor \"a\": U8 [-1] has a negative extent");
}

TEST(writer, text_that_is_no_utf8_is_refused) {
  const auto x = bytes_of("x");
  EXPECT_EQ(message_of_write({"a\xff", DType::kU8, {1}, x}), ": \"a\\xff\" is not valid UTF-8");
  EXPECT_EQ(message_of_write({"a", DType::kU8, {1}, x}, {{"k\xff", "v"}}), ": \"k\\xff\" is not valid UTF-8");
  EXPECT_EQ(message_of_write({"a", DType::kU8, {1}, x}, {{"k", "v\xff"}}), ": \"v\\xff\" is not valid UTF-8");
}

TEST(writer, a_header_above_the_formats_limit_is_refused) {
  const std::string name(kLargestHeaderBytes, 'a');
  EXPECT_EQ(message_of_write({name, DType::kU8, {1}, bytes_of("x")}),
            ": a header of 100000056 bytes, the format allows 100000000");
}

TEST(writer, a_missing_directory_is_refused) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "absent" / "f";
  EXPECT_EQ(refusal([&] { write_safetensors(path, {}); }),
            path.string() + ": cannot be written: No such file or directory");
}

TEST(writer, a_directory_is_not_replaced) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "f";
  std::filesystem::create_directory(path);
  EXPECT_EQ(refusal([&] { write_safetensors(path, {}); }),
            path.string() + ": cannot be written: Is a directory");
  EXPECT_EQ(files_in(directory), 1u);
}

// A limit on the size of files stands for a full disk.
TEST(writer, a_disk_without_room_leaves_the_old_file_and_nothing_else) {
  const TemporaryDirectory directory;
  const auto path = directory.write("f", "old");
  const std::string data(1 << 16, 'x');
  const TensorView tensor{"a", DType::kU8, {1 << 16}, bytes_of(data)};
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small{4096, limit.rlim_max};
  auto* const handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  try {
    write_safetensors(path, std::span(&tensor, 1));
  } catch (const Error& error) {
    message = error.what();
  }
  setrlimit(RLIMIT_FSIZE, &limit);
  std::signal(SIGXFSZ, handler);
  EXPECT_EQ(message, path.string() + ": cannot be written: File too large");
  EXPECT_EQ(MappedFile(path).text(), "old");
  EXPECT_EQ(files_in(directory), 1u);
}

}  // namespace
}  // namespace fulgurite::checkpoint
