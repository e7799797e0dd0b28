#include "fulgurite/checkpoint/shard_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "fulgurite/checkpoint/test_files.h"

namespace fulgurite::checkpoint {
namespace {

std::string refused(const std::string& text) {
  return refusal([&] { parse_shard_index(text, "i"); });
}

std::string refused_shard(const std::string& name) { return refused(R"({"weight_map":{"t":)" + name + "}}"); }

TEST(shard_index, tells_the_shard_of_each_tensor) {
  const ShardIndex index = parse_shard_index(
      R"({"metadata":{"total_size":7},"weight_map":{"c":"x.safetensors","a":"y.safetensors","b":"x.safetensors"}})",
      "i");
  EXPECT_THAT(index.shards, testing::ElementsAre("x.safetensors", "y.safetensors"));
  ASSERT_EQ(index.entries.size(), 3u);
  EXPECT_EQ(index.entries[0].tensor, "a");
  EXPECT_EQ(index.find("a")->shard, 1u);
  EXPECT_EQ(index.find("b")->shard, 0u);
  EXPECT_EQ(index.find("c")->shard, 0u);
  EXPECT_EQ(index.find("d"), nullptr);
  EXPECT_EQ(index.find(""), nullptr);
}

TEST(shard_index, a_map_of_another_form_is_refused) {
  EXPECT_THAT(refused(""), testing::StartsWith("i: not valid JSON"));
  EXPECT_EQ(refused("[]"), "i: key \"weight_map\" is missing");
  EXPECT_EQ(refused(R"({"metadata":{}})"), "i: key \"weight_map\" is missing");
  EXPECT_EQ(refused(R"({"weight_map":["a"]})"), "i: weight_map: expected an object, found [\"a\"]");
  EXPECT_EQ(refused_shard("1"), "i: tensor \"t\": expected the name of a file, found 1");
}

TEST(shard_index, a_tensor_that_stands_twice_is_refused) {
  EXPECT_EQ(refused(R"({"weight_map":{"t":"x","t":"y"}})"), "i: key \"t\" stands twice");
}

TEST(shard_index, a_shard_outside_the_directory_is_refused) {
  EXPECT_EQ(refused_shard(R"("../x")"), "i: tensor \"t\": shard \"../x\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"("/x")"), "i: tensor \"t\": shard \"/x\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"("x\\y")"), "i: tensor \"t\": shard \"x\\y\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"("..")"), "i: tensor \"t\": shard \"..\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"(".")"), "i: tensor \"t\": shard \".\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"("")"), "i: tensor \"t\": shard \"\" is not a plain file name");
  EXPECT_EQ(refused_shard(R"("x\u0000y")"), "i: tensor \"t\": shard \"x\\x00y\" is not a plain file name");
}

}  // namespace
}  // namespace fulgurite::checkpoint
