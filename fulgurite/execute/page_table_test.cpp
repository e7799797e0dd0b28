#include "fulgurite/execute/page_table.h"

#include <gtest/gtest.h>

namespace fulgurite::execute {
namespace {

std::vector<int32_t> row(const PageTable& table, int64_t sequence, int64_t width) {
  const auto entries =
      table.entries().subspan(static_cast<size_t>(sequence * width), static_cast<size_t>(width));
  return {entries.begin(), entries.end()};
}

TEST(page_table, a_sequence_takes_a_page_when_its_last_one_is_full) {
  PageTable table(2, 3, 64, 5);
  EXPECT_EQ(table.missing(0, 0), 0);
  EXPECT_EQ(table.missing(0, 64), 1);
  EXPECT_EQ(table.missing(0, 65), 2);
  table.hold(0, 64);
  table.hold(1, 1);
  table.hold(0, 65);
  EXPECT_EQ(row(table, 0, 3), (std::vector<int32_t>{0, 2, 0}));
  EXPECT_EQ(row(table, 1, 3), (std::vector<int32_t>{1, 0, 0}));
  EXPECT_EQ(table.free(), 2);
  EXPECT_EQ(table.missing(0, 128), 0);
}

TEST(page_table, what_a_reset_gives_back_others_take) {
  PageTable table(2, 2, 64, 3);
  table.hold(0, 128);
  table.hold(1, 10);
  EXPECT_EQ(table.free(), 0);
  table.release(0);
  EXPECT_EQ(table.free(), 2);
  table.release(0);
  EXPECT_EQ(table.free(), 2) << "it has none any more";
  table.hold(1, 128);
  EXPECT_EQ(row(table, 1, 2), (std::vector<int32_t>{2, 0})) << "the last given back first";
}

TEST(page_table, without_pages_nothing_is_missing) {
  const PageTable table(4, 0, 0, 0);
  EXPECT_EQ(table.missing(3, 1000), 0);
  EXPECT_TRUE(table.entries().empty());
}

}  // namespace
}  // namespace fulgurite::execute
