#include "fulgurite/checkpoint/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "fulgurite/checkpoint/test_files.h"

namespace fulgurite::checkpoint {
namespace {

static_assert(!std::is_copy_constructible_v<MappedFile> && !std::is_copy_assignable_v<MappedFile>);

TEST(mapped_file, shows_the_bytes_of_the_file) {
  const TemporaryDirectory directory;
  const MappedFile file(directory.write("a", std::string_view("one\0two", 7)));
  EXPECT_EQ(file.text(), std::string_view("one\0two", 7));
  EXPECT_EQ(file.bytes().size(), 7u);
}

TEST(mapped_file, an_empty_file_is_an_empty_span) {
  const TemporaryDirectory directory;
  EXPECT_TRUE(MappedFile(directory.write("a", "")).bytes().empty());
}

TEST(mapped_file, bytes_stay_in_place_when_the_object_moves) {
  const TemporaryDirectory directory;
  MappedFile first(directory.write("a", "first"));
  const std::byte* const place = first.bytes().data();
  MappedFile second(std::move(first));
  EXPECT_EQ(second.bytes().data(), place);
  EXPECT_TRUE(first.bytes().empty());
  MappedFile third(directory.write("b", "third"));
  third = std::move(second);
  EXPECT_EQ(third.bytes().data(), place);
  EXPECT_EQ(third.text(), "first");
}

TEST(mapped_file, bytes_outlive_the_removal_of_the_name) {
  const TemporaryDirectory directory;
  const MappedFile file(directory.write("a", "still here"));
  std::filesystem::remove(directory.path() / "a");
  EXPECT_EQ(file.text(), "still here");
}

TEST(mapped_file, a_missing_file_is_refused) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "absent";
  EXPECT_EQ(refusal([&] { MappedFile file(path); }), path.string() + ": No such file or directory");
}

TEST(mapped_file, a_directory_is_refused) {
  const TemporaryDirectory directory;
  EXPECT_EQ(refusal([&] { MappedFile file(directory.path()); }),
            directory.path().string() + ": expected a file, found a directory");
}

TEST(mapped_file, a_pipe_is_refused_and_not_waited_for) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "pipe";
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_EQ(refusal([&] { MappedFile file(path); }),
            path.string() + ": expected a regular file, found a device, pipe or socket");
}

TEST(mapped_file, a_path_with_a_line_break_stands_in_one_line) {
  const TemporaryDirectory directory;
  const auto path = directory.path() / "a\nb";
  EXPECT_EQ(refusal([&] { MappedFile file(path); }),
            directory.path().string() + "/a\\x0ab: No such file or directory");
}

}  // namespace
}  // namespace fulgurite::checkpoint
